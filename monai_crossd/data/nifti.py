"""What a NIfTI file must be before it is read: its header is judged as it stands, before nibabel mends it.

Fields follow https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h; nibabel replaces voxel sizes of zero by 1 mm.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from typing import Any, cast

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError

from .volumes import PathLike, VolumeError, file_fault, suffix

__all__ = ["affine_fault", "check_whole", "open_nifti", "unreadable"]

_GZIP = b"\x1f\x8b"
_MOST_DEFLATED = 1032  # bytes that deflate makes of one, https://zlib.net/zlib_tech.html
_HEADERS = {348: (nib.Nifti1Header, (b"n+1", b"ni1")), 540: (nib.Nifti2Header, (b"n+2", b"ni2"))}


def open_nifti(path: PathLike) -> nib.Nifti1Image:
    """Open a NIfTI file, its voxels unread.

    Raises:
        VolumeError: if it is no file or no NIfTI, if its header holds what no volume has (types, sizes, dimensions,
            affine, scaling), or if it is too short for the voxels that the header names.
    """
    fault = file_fault(path)
    if not fault:
        try:
            fault = _fault(path)
        except (OSError, EOFError, zlib.error) as error:
            fault = unreadable(error)
    if fault:
        raise VolumeError(path, fault)
    try:
        image = cast(nib.Nifti1Image, nib.load(path))
        fault = affine_fault(image.affine)
    except Exception as error:  # of many kinds, for a damaged file
        check_whole(path)  # says what is wrong, where it can
        fault = unreadable(error)
    if fault:
        raise VolumeError(path, fault)
    return image


def check_whole(path: PathLike) -> None:
    """Read a compressed NIfTI to its end, where gzip keeps its checksum.

    nibabel stops before, and takes damaged voxels for good.

    Raises:
        VolumeError: if it is cut off or damaged, or shorter than its header says.
    """
    if suffix(path) != ".nii.gz":
        return
    found = 0
    try:
        with gzip.open(path) as stream:
            while part := stream.read(1 << 20):
                found += len(part)
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(path, unreadable(error)) from error
    fault = _length_fault(_header(path), found)
    if fault:
        raise VolumeError(path, fault)


def unreadable(error: Exception) -> str:
    """The sentence on what a library could not read."""
    cause = " ".join(str(error).split()).rstrip(".") or "not enough memory"
    return f"cannot be read to its end as NIfTI ({type(error).__name__}: {cause}); copy or convert it again."


def affine_fault(affine: np.ndarray[Any, Any]) -> str | None:
    """What keeps an affine from having an inverse."""
    if not np.isfinite(affine).all():
        return "must have a finite affine, got NaN or infinity in it; repair its sform or qform."
    sizes = voxel_sizes(affine)
    if not abs(np.linalg.det(affine[:-1, :-1])) > 1e-6 * np.prod(sizes):
        measured = " x ".join(f"{size:g}" for size in sizes)
        return f"must have a regular affine, got a singular one of {measured} mm voxels; repair its sform or qform."
    return None


def _fault(path: PathLike) -> str | None:
    with open(path, "rb") as stream:
        start = stream.read(8)
    named = suffix(path) == ".nii.gz"
    if named != start.startswith(_GZIP):
        which, other = ("must be", ".nii") if named else ("must not be", ".nii.gz")
        return (
            f"{which} compressed by gzip as its name says, but starts with {start!r}; "
            f"copy it again, or name it {other} if it is a NIfTI."
        )
    header = _header(path)
    if header is None:
        return "is no NIfTI, its first bytes are not those of a NIfTI header; copy or convert it again."
    size = os.path.getsize(path)
    return _field_fault(header) or _length_fault(header, size * _MOST_DEFLATED if named else size, "at most " * named)


def _header(path: PathLike) -> nib.Nifti1Header | None:
    """The header as it is in the file, None where there is none."""
    with gzip.open(path) if suffix(path) == ".nii.gz" else open(path, "rb") as stream:
        block = stream.read(max(_HEADERS))
    for order in ("little", "big"):
        size = int.from_bytes(block[:4], order)
        kind, magic = _HEADERS.get(size, (None, ()))
        if kind is not None and len(block) >= size:
            header = kind(block[:size], endianness={"little": "<", "big": ">"}[order], check=False)
            return header if bytes(header["magic"].tobytes()[:3]) in magic else None
    return None


def _field_fault(header: nib.Nifti1Header) -> str | None:
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7:
        return f"must have 1 to 7 dimensions, got {dimensions}; convert it again."
    shape = tuple(int(size) for size in header["dim"][1 : dimensions + 1])
    if min(shape) < 1:
        return f"is empty, its shape is {shape}; export the image again."
    try:
        dtype = header.get_data_dtype()
    except (KeyError, HeaderDataError):
        dtype = np.dtype("V")
    if not dtype.itemsize:
        return f"must hold numbers of a known type, got datatype {int(header['datatype'])}; convert it to float32."
    if dtype.kind not in "iuf":
        kind = "RGB colors" if dtype.fields else f"{dtype} values"
        return f"must hold one real number per voxel, got {kind}; convert it to gray values."
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isinf(slope) or (slope and math.isfinite(slope) and not math.isfinite(intercept)):
        return f"must have a finite scl_slope and scl_inter, got {slope:g} and {intercept:g}; convert it again."
    offset = float(header["vox_offset"])
    if not header.template_dtype.itemsize <= offset < math.inf:
        return f"must have its voxels after its header, got a vox_offset of {offset:g} bytes; convert it again."
    return None if header["sform_code"] > 0 else _pixdim_fault(header)


def _pixdim_fault(header: nib.Nifti1Header) -> str | None:
    """Without an sform the voxel sizes stand in ``pixdim``."""
    sizes = header["pixdim"][1 : 1 + min(int(header["dim"][0]), 3)]
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        measured = " x ".join(f"{size:g}" for size in sizes)
        return f"must have voxels of positive size, got {measured} mm as pixdim; repair its pixdim or sform."
    turn = [float(header[f"quatern_{name}"]) for name in "bcd"]
    if header["qform_code"] > 0 and not sum(value**2 for value in turn) <= 1 + 1e-5:
        shown = ", ".join(f"{value:g}" for value in turn)
        return f"must have a unit quaternion as qform, got {shown} as its b, c, d; repair its qform or sform."
    return None


def _length_fault(header: nib.Nifti1Header | None, found: int, bound: str = "") -> str | None:
    if header is None:
        return None
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    claimed = math.prod(int(size) for size in shape) * dtype.itemsize + int(header["vox_offset"])
    if claimed <= found:
        return None
    voxels = " x ".join(map(str, shape))
    return (
        f"must have {claimed} bytes for {voxels} voxels of {dtype.name} as its header says, got {bound}{found}; "
        "copy or convert it again."
    )
