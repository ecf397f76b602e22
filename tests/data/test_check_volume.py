"""Every kind of unusable volume is refused with one sentence; usable ones pass."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from monai_crossd.data import VolumeError, check_volume

RNG = np.random.default_rng(0)
SHAPE = (4, 5, 6)


def save(path: Path, values: NDArray, affine: NDArray | None = None) -> Path:
    nib.save(nib.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def noise(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


def refuses(path: Path, reason: str, channels: int = 1) -> None:
    with pytest.raises(VolumeError, match=f"^{re.escape(f'{path}: {reason}')}$"):
        check_volume(path, channels)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_usable_volumes_pass(tmp_path: Path, suffix: str, dtype: type) -> None:
    check_volume(save(tmp_path / f"a{suffix}", (100 * noise(*SHAPE)).astype(dtype), np.diag([-1, 0.5, 3, 1])))


def test_nifti_2_and_single_frames_and_channels_pass(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(noise(*SHAPE), np.eye(4)), tmp_path / "nifti2.nii.gz")
    check_volume(tmp_path / "nifti2.nii.gz")
    check_volume(save(tmp_path / "frame.nii.gz", noise(*SHAPE, 1)))
    check_volume(save(tmp_path / "channels.nii.gz", noise(*SHAPE, 2)), channels=2)


@pytest.mark.parametrize(
    ("shape", "channels", "reason"),
    [
        ((4, 0, 6), 1, "is empty, its shape is (4, 0, 6); export the image again."),
        ((4, 5), 1, "must be a 3D volume, got the 2D shape (4, 5); give the whole volume, not one slice of it."),
        ((4, 5, 1), 1, "must be a 3D volume, got the 2D shape (4, 5, 1); give the whole volume, not one slice of it."),
        (
            (4, 5, 6, 7),
            1,
            "must have 1 channel, got 7, its shape is (4, 5, 6, 7); save the frame wanted as a 3D file.",
        ),
        (
            (4, 5, 6),
            2,
            "must have 2 channels, got 1, its shape is (4, 5, 6); stack them along the fourth axis.",
        ),
        (
            (4, 5, 6, 1, 3),
            1,
            "must be a 3D volume, got 5 dimensions, (4, 5, 6, 1, 3); save the part wanted as a 3D file.",
        ),
    ],
)
def test_shapes(tmp_path: Path, shape: tuple[int, ...], channels: int, reason: str) -> None:
    refuses(save(tmp_path / "a.nii.gz", noise(*shape)), reason, channels)


def test_colors_and_complex_values(tmp_path: Path) -> None:
    rgb = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    reason = "must hold one real number per voxel, got {}; convert it to gray values."
    refuses(save(tmp_path / "rgb.nii", rgb), reason.format("RGB colors"))
    refuses(save(tmp_path / "complex.nii", noise(*SHAPE).astype(np.complex64)), reason.format("complex64 values"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    values = noise(*SHAPE)
    values[1, 2, 3] = values[0, 0, 0] = value
    reason = "must hold finite values, got 2 of 120 NaN or infinite; replace them, by 0 for example."
    refuses(save(tmp_path / "a.nii.gz", values), reason)


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 0), (np.float32, 2.5)])
def test_constant_values(tmp_path: Path, dtype: type, value: float) -> None:
    reason = f"must show something, but every voxel is {value}; export the image again."
    refuses(save(tmp_path / "a.nii.gz", np.full(SHAPE, value, dtype)), reason)


def with_affine(path: Path, affine: NDArray) -> Path:
    """Write an affine that nibabel's own ``set_sform`` would refuse or mend."""
    image = nib.Nifti1Image(noise(*SHAPE), np.eye(4))
    image.header["vox_offset"] = 352
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = affine[row]
    path.write_bytes(image.header.binaryblock + bytes(4) + image.get_fdata(dtype=np.float32).tobytes("F"))
    return path


def test_affines(tmp_path: Path) -> None:
    flat, skew, broken = np.diag([1.0, 0, 2, 1]), np.eye(4), np.eye(4)
    skew[:3, 1] = skew[:3, 0]
    broken[1, 1] = np.nan
    reason = "must have a regular affine, got a singular one of {} mm voxels; repair its sform or qform."
    refuses(with_affine(tmp_path / "flat.nii", flat), reason.format("1 x 0 x 2"))
    refuses(with_affine(tmp_path / "skew.nii", skew), reason.format("1 x 1 x 1"))
    reason = "must have a finite affine, got NaN or infinity in it; repair its sform or qform."
    refuses(with_affine(tmp_path / "broken.nii", broken), reason)
    check_volume(with_affine(tmp_path / "small.nii", np.diag([1e-3, 1e-3, 1e-3, 1])))


def test_missing(tmp_path: Path) -> None:
    refuses(tmp_path / "a.nii.gz", "does not exist; check the path.")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.9])
def test_truncated_anywhere(tmp_path: Path, suffix: str, part: float) -> None:
    path = save(tmp_path / f"a{suffix}", noise(20, 20, 20))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(
        VolumeError, match=r"; copy or convert it again\.$|: is empty, it has 0 bytes; copy it again\.$"
    ):
        check_volume(path)


def test_damaged_voxels(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    save(path, np.arange(8000, dtype=np.int16).reshape(20, 20, 20))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # one bit of gzip's checksum, which stands for one bit of the voxels
    path.write_bytes(content)
    with pytest.raises(
        VolumeError, match=r"a\.nii\.gz: cannot be read to its end as NIfTI \(BadGzipFile: CRC check failed"
    ):
        check_volume(path)
