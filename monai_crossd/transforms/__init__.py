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
from .mr import MRPercentiles, MRPercentilesd, MRZScore, MRZScored
from .size import spaced_cube, whole_volume

__all__ = [
    "HU_WINDOWS",
    "INTENSITY_RANGES",
    "HUWindow",
    "HUWindowd",
    "HUWindows",
    "HUWindowsd",
    "IntensityRange",
    "IntensityRanged",
    "MRPercentiles",
    "MRPercentilesd",
    "MRZScore",
    "MRZScored",
    "spaced_cube",
    "whole_volume",
]
