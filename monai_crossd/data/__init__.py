"""Volumes in: datalists, and what is refused before a network sees it."""

from __future__ import annotations

from .checks import check_volume
from .datalist import read_datalist
from .describe import Description, describe
from .find import find_volumes
from .pairs import find_pairs
from .reader import SimpleITKReader
from .screening import Screening, list_cases
from .series import Series, find_series, one_series
from .stack import Geometry, check_series
from .volumes import VolumeError, case_name

__all__ = [
    "Description",
    "Geometry",
    "Screening",
    "Series",
    "SimpleITKReader",
    "VolumeError",
    "case_name",
    "check_series",
    "check_volume",
    "describe",
    "find_pairs",
    "find_series",
    "find_volumes",
    "list_cases",
    "one_series",
    "read_datalist",
]
