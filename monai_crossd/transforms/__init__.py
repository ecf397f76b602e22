"""Transforms beside MONAI's, for configs by dotted name."""

from __future__ import annotations

from .intensity import (
    HU_WINDOWS,
    INTENSITY_RANGES,
    HUWindow,
    HUWindowd,
    HUWindows,
    HUWindowsd,
    IntensityRange,
    IntensityRanged,
)

__all__ = [
    "HU_WINDOWS",
    "INTENSITY_RANGES",
    "HUWindow",
    "HUWindowd",
    "HUWindows",
    "HUWindowsd",
    "IntensityRange",
    "IntensityRanged",
]
