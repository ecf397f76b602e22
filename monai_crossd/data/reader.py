"""MONAI's image reader for DICOM series, NIfTI, NRRD and MetaImage, the same on every machine."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.data import ImageReader, NibabelReader
from monai.data.utils import orientation_ras_lps
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from numpy.typing import NDArray

from .nifti import check_whole, open_nifti, unreadable
from .series import Series, is_series_path, one_series, source_tags
from .slices import is_dicom
from .stack import Geometry, check_series
from .volumes import NIFTI, OTHERS, UNREAD, PathLike, VolumeError, file_fault, suffix

__all__ = ["SimpleITKReader"]


_SINGLE_FILES = (".nrrd", ".mha")
_MOST_DEFLATED = 1032  # bytes that deflate makes of one, https://zlib.net/zlib_tech.html
#: what the type of a slice's values depends on, scales first
_VALUE_TAGS = ("RescaleSlope", "RescaleIntercept", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


class _Image(NamedTuple):
    """An image of SimpleITK and what its file says beside it."""

    image: sitk.Image
    tags: dict[str, Any]


class SimpleITKReader(ImageReader):
    """Reads a DICOM series as a volume after checking it, and NIfTI, NRRD and MetaImage.

    Pixels come from SimpleITK (GDCM), so compressed transfer syntaxes work and rescale slope and intercept are
    applied: CT comes in HU. Tags and order of slices come from :func:`monai_crossd.data.check_series`, which refuses
    what is no regular stack. NIfTI goes to MONAI's ``NibabelReader``.

    Use it by name: ``LoadImaged(keys="image", reader="monai_crossd.data.SimpleITKReader")``. What it reads:

    - a folder with one DICOM series, or with several and ``series_uid``;
    - a series among several, named as :func:`monai_crossd.data.find_volumes` names it;
    - a list of the DICOM files of one series;
    - a file, or a list of files to be stacked as channels.

    The array is ``(columns, rows, slices)``, or ``(..., channels)`` for several values per voxel; ``affine`` is in
    RAS+, mm, as nibabel's. For DICOM the metadata also has ``series_instance_uid``, ``modality`` and
    ``patient_position``.

    Args:
        series_uid: SeriesInstanceUID of the series to read where a folder holds several.
        tilted: whether a series with gantry tilt is resampled to a grid without it (linear, outside the lowest
            value); otherwise it is refused.
        modality: what the series must be, such as ``"CT"`` or several, ``("CT", "PT")``; anything where None. Files
            other than DICOM do not say theirs.

    Raises:
        VolumeError: for what cannot be read as a volume: one sentence with file or series, rule, value and remedy.
    """

    def __init__(
        self, series_uid: str | None = None, tilted: bool = False, modality: str | Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.series_uid = series_uid
        self.tilted = tilted
        self.modality = None if modality is None else ensure_tuple(modality)
        self._nifti = NibabelReader()

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether a name looks like something that this reader reads; DICOM needs no suffix."""
        return all(
            Path(name).is_dir() or is_series_path(name) or suffix(name) in (*NIFTI, *OTHERS) or is_dicom(name)
            for name in ensure_tuple(filename)
        )

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Read a folder, a file or a list of files; see the class.

        What is refused is returned as its error, which :meth:`get_data` raises: ``LoadImage`` answers an error here by
        trying other readers, which would take in silence what this one refuses.
        """
        try:
            return self._read(ensure_tuple(data))
        except VolumeError as error:
            return error

    def _read(self, paths: Sequence[PathLike]) -> Any:
        for path in paths:
            if suffix(path) in UNREAD:
                raise VolumeError(path, f"is in a format that is not read, {suffix(path)}; convert it to .nii.gz.")
        images = [self._read_file(path) for path in paths if suffix(path) in (*NIFTI, *OTHERS)]
        if not images:
            return self._read_series(paths)
        if len(images) < len(paths):
            raise VolumeError(paths[0], "must be all DICOM or all of one other kind, got a mixed list; separate them.")
        return images if len(images) > 1 else images[0]

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Array and metadata of what :meth:`read` returned; several images become channels, the first names them.

        Raises:
            VolumeError: what :meth:`read` refused.
        """
        if isinstance(img, VolumeError):
            raise img
        images = img if isinstance(img, list) else [img]
        parts = [self._nifti_data(one) if isinstance(one, nib.Nifti1Image) else _data(one) for one in images]
        if len(parts) == 1:
            return parts[0]
        shapes = {array.shape for array, _ in parts}
        if len(shapes) > 1:
            raise ValueError(f"images stacked as channels must have one shape, got {sorted(shapes)}.")
        meta = parts[0][1] | {MetaKeys.ORIGINAL_CHANNEL_DIM: 0}
        return np.stack([array for array, _ in parts]), meta

    def _read_file(self, path: PathLike) -> Any:
        if suffix(path) not in NIFTI:
            return _Image(_read_other(path), {})
        open_nifti(path)
        try:
            return self._nifti.read(path)
        except Exception as error:  # of many kinds, for a damaged header
            raise VolumeError(path, unreadable(error)) from error

    def _nifti_data(self, image: nib.Nifti1Image) -> tuple[NDArray[Any], dict[str, Any]]:
        try:
            return self._nifti.get_data(image)
        except Exception as error:  # of many kinds, for damaged voxels
            path = image.get_filename() or "image"
            check_whole(path)  # says what is wrong, where it can
            raise VolumeError(path, unreadable(error)) from error

    def _read_series(self, paths: Sequence[PathLike]) -> _Image:
        series = one_series(list(paths), self.series_uid)
        tags = source_tags(series)
        if self.modality is not None and tags["modality"] not in self.modality:
            wanted, found = " or ".join(self.modality), tags["modality"] or "none"
            raise VolumeError(
                series.folder, f"{series} must be of modality {wanted}, got {found}; choose another series."
            )
        geometry = check_series(series, tilted=self.tilted)
        return _Image(_volume(series, geometry), tags)


def _read_other(path: PathLike) -> sitk.Image:
    """Read NRRD or MetaImage."""
    fault = file_fault(path)
    if fault:
        raise VolumeError(path, fault)
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    try:
        reader.ReadImageInformation()
        shape, size = reader.GetSize(), os.path.getsize(path)
        if suffix(path) in _SINGLE_FILES and math.prod(shape) > _MOST_DEFLATED * size:
            fault = f"must hold {' x '.join(map(str, shape))} voxels as its header says, got {size} bytes"
        else:
            image = reader.Execute()
    except RuntimeError as error:
        cause = _cause(error).replace(f'"{path}"', "the file")
        cut = cause == os.strerror(errno.ENOENT) and suffix(path) in _SINGLE_FILES  # MetaImage says no better
        fault = "cannot be read to its end" if cut else f"cannot be read ({cause})"
    if fault:
        raise VolumeError(path, f"{fault}; copy or convert it again.")
    return image


def _cause(error: RuntimeError) -> str:
    """The last sentence of an exception of ITK, without the place in its source."""
    return " ".join(str(error).split()).rsplit(": ", 1)[-1].rstrip(".")


def _volume(series: Series, geometry: Geometry) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(geometry.files)
    kinds = {tuple(part.tags.get(name) for name in _VALUE_TAGS) for part in series.slices}
    scales = [float(scale) for kind in kinds for scale in kind[:2] if scale is not None]
    if len(kinds) > 1 or any(scale != int(scale) for scale in scales):
        wide = any(part.tags.BitsAllocated > 16 for part in series.slices)
        reader.SetOutputPixelType(sitk.sitkFloat64 if wide else sitk.sitkFloat32)  # that of the first slice holds less
    try:
        image = reader.Execute()
    except RuntimeError as error:
        syntaxes = {part.tags.file_meta.get("TransferSyntaxUID") for part in series.slices}
        names = ", ".join(sorted(str(getattr(one, "name", "no transfer syntax")) for one in syntaxes))
        raise VolumeError(
            series.folder,
            f"{series} has pixels that cannot be read ({names}: {_cause(error)}); export it uncompressed.",
        ) from None
    image.SetOrigin(geometry.origin.tolist())
    image.SetSpacing(geometry.spacing.tolist())
    image.SetDirection(geometry.direction.ravel().tolist())
    return image if _is_regular(geometry) else _untilted(image, geometry)


def _is_regular(geometry: Geometry) -> bool:
    third = np.cross(geometry.direction[:, 0], geometry.direction[:, 1])
    return bool(np.allclose(third, geometry.direction[:, 2]))


def _untilted(image: sitk.Image, geometry: Geometry) -> sitk.Image:
    """Resample a sheared stack to the orthogonal grid around it, of the same pixels and distance between slices."""
    row, column = geometry.direction[:, 0], geometry.direction[:, 1]
    normal = np.cross(row, column)
    axes = np.stack([row, column, normal], axis=1)
    size = np.asarray(image.GetSize())
    drift = axes.T @ (geometry.direction[:, 2] * geometry.spacing[2] * (size[2] - 1))  # mm along the three axes
    spacing = np.array([*geometry.spacing[:2], drift[2] / (size[2] - 1)])
    extra = np.ceil(np.abs(drift[:2]) / spacing[:2] - 1e-6).astype(int)  # a drift of nothing is not always exactly 0
    start = np.array([*np.minimum(drift[:2], 0), 0.0])
    grid = sitk.Image([int(n) for n in (size[0] + extra[0], size[1] + extra[1], size[2])], sitk.sitkFloat32)
    grid.SetOrigin((geometry.origin + axes @ start).tolist())
    grid.SetSpacing(spacing.tolist())
    grid.SetDirection(axes.ravel().tolist())
    lowest = float(sitk.GetArrayViewFromImage(image).min())
    image = sitk.Cast(image, sitk.sitkFloat32)  # whole numbers would cut what is interpolated
    return sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, lowest)


def _data(one: _Image) -> tuple[NDArray[Any], dict[str, Any]]:
    image = one.image
    array = sitk.GetArrayFromImage(image)
    channels = image.GetNumberOfComponentsPerPixel() > 1
    array = np.moveaxis(array.T, 0, -1) if channels else array.T  # (columns, rows, slices[, channels])
    size = image.GetDimension()
    affine = np.eye(size + 1)
    affine[:size, :size] = np.asarray(image.GetDirection()).reshape(size, size) * np.asarray(image.GetSpacing())
    affine[:size, size] = image.GetOrigin()
    affine = orientation_ras_lps(affine)
    meta: dict[str, Any] = {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.asarray(image.GetSize()),
        MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if channels else float("nan"),
        "spacing": np.asarray(image.GetSpacing()),
    }
    return array, meta | one.tags
