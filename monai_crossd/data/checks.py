"""What a volume must be before a network may see it."""

from __future__ import annotations

import gzip
import zlib

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from .reader import SimpleITKReader
from .volumes import NIFTI, PathLike, VolumeError, suffix

__all__ = ["check_volume"]

#: all that nibabel raises over a damaged file, at its header or while its voxels are read
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError)


def check_volume(path: PathLike, channels: int = 1) -> None:
    """Read a volume to its end and refuse what is not usable.

    Args:
        path: the file, or what :func:`monai_crossd.data.find_volumes` names a DICOM series.
        channels: how many channels the network takes. One: shape ``(D1, D2, D3)`` or ``(D1, D2, D3, 1)``; more:
            ``(D1, D2, D3, channels)``.

    Raises:
        VolumeError: if the file is missing, damaged or truncated, colored or complex, empty, 2D, a series of frames or
            of another number of channels, without a regular affine, constant, or holds NaN or infinite values; and
            for a DICOM series what :func:`monai_crossd.data.check_series` refuses.
    """
    if suffix(path) not in NIFTI:
        fault = _read_fault(path, channels)
        if fault:
            raise VolumeError(path, fault)
        return
    try:
        if str(path).endswith(".gz"):
            _read_through(path)
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):  # the class of NIfTI-2 too
            raise ImageFileError(f"found {type(image).__name__}")
        fault = _header_fault(image, channels) or _value_fault(np.asanyarray(image.dataobj))
    except FileNotFoundError:
        fault = "does not exist; check the path."
    except _UNREADABLE as error:
        cause = " ".join(str(error).replace(str(path), "the file").split())
        fault = f"cannot be read to its end as NIfTI ({type(error).__name__}: {cause}); copy or convert it again."
    if fault:
        raise VolumeError(path, fault)


def _read_fault(path: PathLike, channels: int) -> str | None:
    """What is wrong with a volume that is no NIfTI; the reader refuses most of it itself."""
    reader = SimpleITKReader()
    array, meta = reader.get_data(reader.read(path))
    return _shape_fault(array.shape, channels) or _affine_fault(meta["affine"]) or _value_fault(array)


def _read_through(path: PathLike) -> None:
    """Read to the end, where gzip keeps its checksum: nibabel stops before, and takes damaged voxels for good."""
    with gzip.open(path) as stream:
        while stream.read(1 << 20):
            pass


def _header_fault(image: nib.Nifti1Image, channels: int) -> str | None:
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        kind = "RGB colors" if dtype.fields else f"{dtype} values"
        return f"must hold one real number per voxel, got {kind}; convert it to gray values."
    return _shape_fault(image.shape, channels) or _affine_fault(image.affine)


def _shape_fault(shape: tuple[int, ...], channels: int) -> str | None:
    if 0 in shape:
        return f"is empty, its shape is {shape}; export the image again."
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


def _affine_fault(affine: NDArray[np.float64]) -> str | None:
    if not np.isfinite(affine).all():
        return "must have a finite affine, got NaN or infinity in it; repair its sform or qform."
    sizes = voxel_sizes(affine)
    if not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * np.prod(sizes):
        measured = " x ".join(f"{size:g}" for size in sizes)
        return f"must have a regular affine, got a singular one of {measured} mm voxels; repair its sform or qform."
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
