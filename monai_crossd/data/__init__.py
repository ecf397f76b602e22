"""Volumes in: datalists, and what is refused before a network sees it."""

from __future__ import annotations

from .checks import check_volume
from .pairs import find_pairs
from .screening import Screening, raise_refused, screen
from .volumes import VolumeError, case_name, find_volumes

__all__ = [
    "Screening",
    "VolumeError",
    "case_name",
    "check_volume",
    "find_pairs",
    "find_volumes",
    "raise_refused",
    "screen",
]
