"""Volumes of any size and spacing to the cube that a network takes, and back by ``Invertd``."""

from __future__ import annotations

from collections.abc import Sequence

from monai.config import KeysCollection
from monai.transforms import Compose, Orientationd, Resized, ResizeWithPadOrCropd, Spacingd
from monai.utils import ensure_tuple

__all__ = ["spaced_cube", "whole_volume"]


def spaced_cube(
    keys: KeysCollection,
    spacing: float | Sequence[float],
    size: int = 96,
    label_keys: KeysCollection = (),
) -> Compose:
    """For segmentation: RAS, one spacing, then cropped and padded around the middle to a cube.

    A voxel has the same size in every volume; what does not fit into the cube is cut off, what is missing is zero, so
    place windows and normalization before it where zero is no background. ``Invertd`` brings a result back to the
    volume's own grid, zero where the volume was cut.

    Args:
        keys: of the volumes ``(C, *spatial)``, ``MetaTensor`` as from ``LoadImaged``.
        spacing: of the cube's voxels in mm, one number or one per axis.
        size: of the cube in voxels, 96 or 128 or another number.
        label_keys: those of ``keys`` that are label maps: they are resampled by the nearest voxel, others linearly.

    Returns:
        MONAI's transforms, a dictionary transform.

    Raises:
        ValueError: for a spacing or size that is not positive, or a label key that is not among the keys.
    """
    labels = _is_label(keys, label_keys)
    pixdim = [float(step) for step in (spacing if isinstance(spacing, Sequence) else (spacing,) * 3)]
    if len(pixdim) != 3 or not all(step > 0 for step in pixdim):
        raise ValueError(f"`spacing` must be one or three positive numbers of mm, got {spacing!r}.")
    return Compose(
        [
            Orientationd(keys, axcodes="RAS", labels=None),
            Spacingd(keys, pixdim=pixdim, mode=["nearest" if label else "bilinear" for label in labels]),
            ResizeWithPadOrCropd(keys, spatial_size=_cube(size)),
        ]
    )


def whole_volume(keys: KeysCollection, size: int = 96, label_keys: KeysCollection = ()) -> Compose:
    """For classification: RAS, then the whole volume resized to a cube, whatever its spacing.

    Nothing is cut off; voxels are as large as it takes, each axis for itself. Images are smoothed before they shrink.

    Args:
        keys: of the volumes ``(C, *spatial)``, ``MetaTensor`` as from ``LoadImaged``.
        size: of the cube in voxels, 96 or 128 or another number.
        label_keys: those of ``keys`` that are label maps: they are resampled by the nearest voxel, others linearly.

    Returns:
        MONAI's transforms, a dictionary transform.

    Raises:
        ValueError: for a size that is not positive, or a label key that is not among the keys.
    """
    labels = _is_label(keys, label_keys)
    resize = Resized(
        keys,
        spatial_size=_cube(size),
        mode=["nearest" if label else "trilinear" for label in labels],
        anti_aliasing=[not label for label in labels],
    )
    return Compose([Orientationd(keys, axcodes="RAS", labels=None), resize])


def _is_label(keys: KeysCollection, label_keys: KeysCollection) -> list[bool]:
    names, labels = ensure_tuple(keys), ensure_tuple(label_keys)
    missing = [key for key in labels if key not in names]
    if missing:
        raise ValueError(f"`label_keys` must be among `keys`, got {missing[0]!r} beside {list(names)}.")
    return [key in labels for key in names]


def _cube(size: int) -> tuple[int, int, int]:
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"`size` must be a positive number of voxels, got {size!r}.")
    return (size, size, size)
