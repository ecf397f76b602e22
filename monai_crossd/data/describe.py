"""One row per case: what a volume is, and every problem found with it and its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from monai.utils import MetaKeys
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from .checks import check_volume
from .reader import SimpleITKReader
from .volumes import VolumeError

__all__ = ["Description", "describe"]

_MOST_LABELS = 256


class Description(NamedTuple):
    """What :func:`describe` found; fields that a problem hides are empty.

    Attributes:
        case: the path of the image.
        shape: voxels along the stored axes.
        spacing: mm along them.
        orientation: where they point, such as ``"RAS"``.
        intensities: lowest and highest value.
        labels: the values that the label map holds, where there is one.
        problems: one sentence each.
    """

    case: str
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    intensities: tuple[float, ...] = ()
    labels: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()

    def as_row(self) -> dict[str, str]:
        """The fields as text, for a table."""
        return {
            "case": self.case,
            "shape": " x ".join(map(str, self.shape)),
            "spacing [mm]": " x ".join(f"{value:g}" for value in self.spacing),
            "orientation": self.orientation,
            "intensities": " ... ".join(f"{value:g}" for value in self.intensities),
            "labels": " ".join(map(str, self.labels)),
            "problems": " ".join(self.problems),
        }


def describe(case: Mapping[str, Any], channels: int = 1, modality: str | Sequence[str] | None = None) -> Description:
    """Read a case to its end and say what it is.

    Args:
        case: ``{"image": path}``, with ``"label"`` where there is one.
        channels: how many channels the image must have.
        modality: what it must be, such as ``"MR"``, see :func:`check_volume`.

    Returns:
        The description; nothing is raised for a bad case, its problems are listed.
    """
    path, problems = str(case["image"]), []
    try:
        check_volume(path, channels, modality)
    except VolumeError as error:
        problems.append(error.args[1])
    try:
        image, affine = _read(path)
    except VolumeError as error:
        return Description(path, problems=tuple(problems or [error.args[1]]))
    labels: tuple[int, ...] = ()
    if case.get("label"):
        labels, faults = _labels(str(case["label"]), image.shape[:3], affine)
        problems += faults
    finite = image[np.isfinite(image)]
    return Description(
        path,
        image.shape,
        tuple(round(float(size), 4) for size in voxel_sizes(affine)),
        "".join(axis or "?" for axis in nib.aff2axcodes(affine)) if affine.shape == (4, 4) else "",
        (float(finite.min()), float(finite.max())) if finite.size else (),
        labels,
        tuple(problems),
    )


def _read(path: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    reader = SimpleITKReader()
    array, meta = reader.get_data(reader.read(path))
    return array, np.asarray(meta[MetaKeys.AFFINE], float)


def _labels(path: str, grid: tuple[int, ...], affine: NDArray[np.float64]) -> tuple[tuple[int, ...], list[str]]:
    """The values of a label map, and what keeps it from belonging to the image."""
    try:
        array, own = _read(path)
    except VolumeError as error:
        return (), [f"Its label {path} {error.args[1]}"]
    faults = []
    if array.shape[:3] != grid:
        faults.append(f"Its label {path} must have the image's grid, {grid}, got {array.shape}.")
    elif np.abs(own - affine).max() > 1e-2:
        faults.append(f"Its label {path} must have the image's affine, got one that differs by more than 0.01 mm.")
    values = np.unique(array)
    if not np.isfinite(values).all() or (values != np.round(values)).any() or len(values) > _MOST_LABELS:
        faults.append(f"Its label {path} must hold whole numbers, got {len(values)} values such as {values[-1]:g}.")
        return (), faults
    return tuple(int(value) for value in values), faults
