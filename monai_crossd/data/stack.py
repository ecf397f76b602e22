"""What a DICOM series must be before it is read as a volume, and where the volume lies.

Geometry follows DICOM PS3.3 C.7.6.2: positions and orientations in the patient's LPS coordinates, in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray

from .series import Series, brief
from .slices import Slice, slice_fault
from .volumes import VolumeError

__all__ = ["Geometry", "check_series"]

#: cosines of row and column directions that differ by less are the same; scanners write about six digits
_ORIENTATION_TOLERANCE = 1e-4
#: shares of a pixel's size that may differ between slices
_PIXEL_TOLERANCE = 1e-4
#: a slice may lie this much off the regular grid, as a share of the spacing, and never more than so many mm
_POSITION_TOLERANCE, _POSITION_LIMIT_MM = 0.1, 0.1
#: angle between the stack and the slices' normal, in degrees
_TILT_TOLERANCE = 0.1
#: what tells apart the stacks that one series may hold
_SERIES_WITHIN = ("AcquisitionNumber", "TemporalPositionIdentifier", "EchoNumbers")


class Geometry(NamedTuple):
    """Where a checked series lies.

    Attributes:
        files: in the order of the stack.
        origin: center of the first voxel, mm, LPS.
        spacing: of columns, rows and slices, mm.
        direction: unit vectors of the three axes as columns, LPS; the third is not normal to the others where the
            gantry was tilted.
        tilt: angle between the third axis and the normal, degrees.
    """

    files: list[str]
    origin: NDArray[np.float64]
    spacing: NDArray[np.float64]
    direction: NDArray[np.float64]
    tilt: float


def check_series(series: Series, *, tilted: bool = False) -> Geometry:
    """Refuse what is no regular stack of slices, and put the files in the order of the stack.

    Args:
        series: the files of one series.
        tilted: whether a gantry tilt is accepted, to be resampled.

    Returns:
        Files in order and the geometry of the volume.

    Raises:
        VolumeError: naming the series, the rule, the measured value and the remedy: for localizers, enhanced and
            multi-frame objects, colors, missing or impossible pixels and geometry, one slice alone, slices that differ
            in size, orientation or pixel spacing, duplicates, gaps, uneven spacing and gantry tilt.
    """
    fault = _fault_of_any(series) or _fault_between(series)
    if fault:
        raise VolumeError(series.folder, f"{series} {fault}")
    return _stack(series, tilted)


def _fault_of_any(series: Series) -> str | None:
    """What is wrong with one of the files."""
    if series.damaged:
        names = brief(series.damaged)
        return f"has files beside it that cannot be read as DICOM, {names}; copy them again, or remove them."
    return next(filter(None, map(slice_fault, series.slices)), None)


def _fault_between(series: Series) -> str | None:
    """What differs between the files and must not."""
    if len(series.slices) < 2:
        return "must be a stack of slices, got one; give the whole series."
    first, *others = series.slices
    size = (int(first.tags.Rows), int(first.tags.Columns))
    orientation = np.asarray(first.tags.ImageOrientationPatient, float)
    pixel = np.asarray(first.tags.PixelSpacing, float)
    for other in others:
        both = f"{first.name} and {other.name}"
        own_size = (int(other.tags.Rows), int(other.tags.Columns))
        if own_size != size:
            return f"must have slices of one size, got {size} and {own_size} in {both}; export the series again."
        own = np.asarray(other.tags.ImageOrientationPatient, float)
        if np.abs(own - orientation).max() > _ORIENTATION_TOLERANCE:
            shown = " and ".join(np.array2string(values, precision=4) for values in (orientation, own))
            return f"must have slices of one orientation, got {shown} in {both}; separate them into series."
        own = np.asarray(other.tags.PixelSpacing, float)
        if np.abs(own / pixel - 1).max() > _PIXEL_TOLERANCE:
            return f"must have one pixel spacing, got {pixel} and {own} mm in {both}; separate them into series."
    return None


def _orientation(tags: pydicom.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row (increasing column) and along a column (increasing row)."""
    values = np.asarray(tags.ImageOrientationPatient, float)
    return values[:3], values[3:]


def _stack(series: Series, tilted: bool) -> Geometry:
    row, column = _orientation(series.slices[0].tags)
    normal = np.cross(row, column)
    ordered = sorted(series.slices, key=lambda part: float(normal @ np.asarray(part.tags.ImagePositionPatient, float)))
    positions = np.asarray([part.tags.ImagePositionPatient for part in ordered], float)  # (N, 3)
    heights = positions @ normal
    fault = _spacing_fault(ordered, heights)
    if fault:
        raise VolumeError(series.folder, f"{series} {fault}")
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    tilt = float(np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1))))
    if tilt > _TILT_TOLERANCE and not tilted:
        raise VolumeError(
            series.folder,
            f"{series} must be stacked along the normal of its slices, got a gantry tilt of {tilt:.2f} degrees "
            f"(tolerance {_TILT_TOLERANCE}); read it with `tilted=True` to have it resampled.",
        )
    third = step / np.linalg.norm(step) if tilt > _TILT_TOLERANCE else normal
    rows, columns = (float(value) for value in series.slices[0].tags.PixelSpacing)
    spacing = np.array([columns, rows, np.linalg.norm(step)])
    return Geometry(
        [part.path for part in ordered], positions[0], spacing, np.stack([row, column, third], axis=1), tilt
    )


def _spacing_fault(ordered: Sequence[Slice], heights: NDArray[np.float64]) -> str | None:
    gaps = np.diff(heights)
    usual = float(np.percentile(gaps, 50, method="lower"))
    smallest = int(gaps.argmin())
    if gaps[smallest] <= _POSITION_TOLERANCE * max(usual, 1e-3):
        twins = f"{ordered[smallest].name} and {ordered[smallest + 1].name}"
        kinds = [name for name in _SERIES_WITHIN if len({str(part.tags.get(name)) for part in ordered}) > 1]
        hint = f" (the slices differ in {', '.join(kinds)})" if kinds else ""
        return (
            f"must have one slice per position, got {twins} {gaps[smallest]:.3f} mm apart{hint}; "
            "separate the acquisitions, or remove the duplicate."
        )
    tolerance = min(_POSITION_TOLERANCE * usual, _POSITION_LIMIT_MM)
    largest = int(gaps.argmax())
    where = f"between {ordered[largest].name} and {ordered[largest + 1].name}"
    if gaps[largest] > 1.5 * usual:
        missing = round(gaps[largest] / usual) - 1
        return (
            f"must have no gaps, got {gaps[largest]:.3f} mm {where} where {usual:.3f} mm is usual, so about {missing} "
            f"slice{'s' if missing > 1 else ''} missing; export the series again."
        )
    grid = np.linspace(heights[0], heights[-1], len(heights))
    off = float(np.abs(heights - grid).max())
    if off > tolerance:
        return (
            f"must have evenly spaced slices, got {gaps.min():.3f} to {gaps.max():.3f} mm, a slice {off:.3f} mm off "
            f"the regular grid (tolerance {tolerance:.3f} mm); resample it to even spacing first."
        )
    return None
