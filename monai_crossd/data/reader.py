"""MONAI's image reader for DICOM series, NIfTI, NRRD and MetaImage, the same on every machine."""

from __future__ import annotations

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

from .series import Series, is_dicom, is_series_path, one_series, source_tags
from .stack import Geometry, check_series
from .volumes import NIFTI, OTHERS, PathLike, VolumeError, suffix

__all__ = ["SimpleITKReader"]


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
        modality: what the series must be, such as ``"CT"``; anything where None.

    Raises:
        VolumeError: for what cannot be read as a volume: one sentence with file or series, rule, value and remedy.
    """

    def __init__(self, series_uid: str | None = None, tilted: bool = False, modality: str | None = None) -> None:
        super().__init__()
        self.series_uid = series_uid
        self.tilted = tilted
        self.modality = modality
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
        parts = [self._nifti.get_data(one) if isinstance(one, nib.Nifti1Image) else _data(one) for one in images]
        if len(parts) == 1:
            return parts[0]
        shapes = {array.shape for array, _ in parts}
        if len(shapes) > 1:
            raise ValueError(f"images stacked as channels must have one shape, got {sorted(shapes)}.")
        meta = parts[0][1] | {MetaKeys.ORIGINAL_CHANNEL_DIM: 0}
        return np.stack([array for array, _ in parts]), meta

    def _read_file(self, path: PathLike) -> Any:
        try:
            if suffix(path) in NIFTI:
                return self._nifti.read(path)
            return _Image(sitk.ReadImage(os.fspath(path)), {})
        except Exception as error:
            if not Path(path).exists():
                raise VolumeError(path, "does not exist; check the path.") from None
            cause = " ".join(str(error).split()).rsplit(": ", 1)[-1].rstrip(".")
            raise VolumeError(path, f"cannot be read ({cause}); copy or convert it again.") from error

    def _read_series(self, paths: Sequence[PathLike]) -> _Image:
        series = one_series(list(paths), self.series_uid)
        tags = source_tags(series)
        if self.modality is not None and tags["modality"] != self.modality:
            raise VolumeError(
                series.folder, f"{series} must be of modality {self.modality}, got {tags['modality'] or 'none'}."
            )
        geometry = check_series(series, tilted=self.tilted)
        return _Image(_volume(series, geometry), tags)


def _volume(series: Series, geometry: Geometry) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(geometry.files)
    scales = [
        float(part.tags.get(name) or 0) for part in series.slices for name in ("RescaleSlope", "RescaleIntercept")
    ]
    if any(scale != int(scale) for scale in scales):
        reader.SetOutputPixelType(sitk.sitkFloat32)  # the type of the first slice may hold no fractions
    try:
        image = reader.Execute()
    except RuntimeError as error:
        cause = " ".join(str(error).split()).rsplit(": ", 1)[-1].rstrip(".")
        raise VolumeError(
            series.folder, f"{series} has pixels that cannot be read ({cause}); export it again."
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
    extra = np.ceil(np.abs(drift[:2]) / spacing[:2]).astype(int)
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
