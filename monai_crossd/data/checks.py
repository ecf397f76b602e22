"""What a volume must be before a network may see it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from monai.utils import MetaKeys, ensure_tuple
from numpy.typing import NDArray

from .nifti import affine_fault, check_whole, open_nifti
from .reader import SimpleITKReader
from .volumes import NIFTI, PathLike, VolumeError, suffix

__all__ = ["check_volume"]

logger = logging.getLogger(__name__)

#: a volume of a modality has more gray values than this; a label map has fewer
_FEWEST_GRAYS = 16
#: HU below which fat and air lie, which every CT volume shows
_FAT_HU = -50


def check_volume(path: PathLike, channels: int = 1, modality: str | Sequence[str] | None = None) -> None:
    """Read a volume to its end and refuse what is not usable.

    Args:
        path: the file, or what :func:`monai_crossd.data.find_volumes` names a DICOM series.
        channels: how many channels the network takes. One: shape ``(D1, D2, D3)`` or ``(D1, D2, D3, 1)``; more:
            ``(D1, D2, D3, channels)``.
        modality: what the network takes, such as ``"MR"`` or several, ``("CT", "PT")``. A DICOM series of another one
            is refused, and so is a label map. Where only CT is taken, a file whose values cannot be HU is warned of.

    Raises:
        VolumeError: if the file is missing, damaged or truncated, colored or complex, empty, 2D, a series of frames or
            of another number of channels, without a regular affine or an orientation, constant, or holds NaN or
            infinite values; and for a DICOM series what :func:`monai_crossd.data.check_series` refuses.
    """
    if suffix(path) in NIFTI:
        _check_nifti(path, channels)
    reader = SimpleITKReader(modality=modality)
    array, meta = reader.get_data(reader.read(path))
    fault = _shape_fault(array.shape, channels) or affine_fault(meta[MetaKeys.AFFINE]) or _value_fault(array)
    if not fault and modality is not None:
        fault = _label_fault(array)
    if fault:
        raise VolumeError(path, fault)
    if modality is not None and set(ensure_tuple(modality)) == {"CT"} and "modality" not in meta:
        _warn_unless_hu(path, array)


def _check_nifti(path: PathLike, channels: int) -> None:
    """What shows before the voxels are in memory, and damage that nibabel reads over."""
    image = open_nifti(path)
    fault = _shape_fault(image.shape, channels)
    if not fault and image.header["sform_code"] <= 0 and image.header["qform_code"] <= 0:
        fault = (
            "must say how it lies in the patient, got 0 as sform_code and qform_code; convert the original images "
            "again, or set its orientation in a viewer and save it."
        )
    if fault:
        raise VolumeError(path, fault)
    check_whole(path)


def _shape_fault(shape: tuple[int, ...], channels: int) -> str | None:
    if len(shape) < 3 or 1 in shape[:3]:
        return f"must be a 3D volume, got the 2D shape {shape}; give the whole volume, not one slice of it."
    if len(shape) > 4:
        return f"must be a 3D volume, got {len(shape)} dimensions, {shape}; save the part wanted as a 3D file."
    found = shape[3] if len(shape) == 4 else 1
    if found != channels:
        plural = "s" if channels > 1 else ""
        remedy = "stack them along the fourth axis" if plural else "save the frame wanted as a 3D file"
        return f"must have {channels} channel{plural}, got {found}, its shape is {shape}; {remedy}."
    return None


def _value_fault(values: NDArray[np.number]) -> str | None:
    broken = values.size - np.count_nonzero(np.isfinite(values))
    if broken:
        return (
            f"must hold finite values, got {broken} of {values.size} NaN or infinite; replace them, by 0 for example."
        )
    if values.min() == values.max():
        return f"must show something, but every voxel is {values.flat[0]:g}; export the image again."
    return None


def _label_fault(values: NDArray[np.number]) -> str | None:
    """Few whole numbers from 0 up are labels, not intensities."""
    highest = int(values.max())
    if values.min() != 0 or highest > 255 or (values != np.round(values)).any():
        return None
    found = np.count_nonzero(np.bincount(values.astype(np.uint8).ravel()))
    if found > _FEWEST_GRAYS:
        return None
    return f"must be an image, got {found} whole values from 0 to {highest} as in a label map; give the image instead."


def _warn_unless_hu(path: PathLike, values: NDArray[np.number]) -> None:
    if values.min() > _FAT_HU:
        shown = f"{values.min():g} to {values.max():g}"
        logger.warning(f"{path}: should be in HU, got values from {shown}, no fat or air; the result may be wrong.")
