"""Previews show each structure where it is, with the patient's right at the left, at one scale in mm."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from monai.data import MetaTensor
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from monai_crossd.outputs import SavePreviewd

STRUCTURES = {"1": "right front top", "2": "rest"}
ORANGE, BLUE = (0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)  # of the first two structures
SHAPE, SPACING = (40, 30, 12), (1.0, 1.0, 2.5)  # RAS axes; 40, 30 and 30 mm
SCALE = 12  # pixels per mm: the picture gives 11 inches of 120 pixels to 40 + 40 + 30 mm
PLANES = ((30, 510), (540, 1020), (1050, 1410))  # their columns: axial, coronal, sagittal; 30 pixels between


def case(folder: Path, axes: str = "RAS", empty: bool = False) -> MetaTensor:
    """Write an image stored along ``axes`` and label a box 2, its corner at the right, front and top 1."""
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    labels = np.zeros(SHAPE, np.float32)
    if not empty:
        labels[5:35, 4:26, 3:10] = 2
        labels[18:35, 14:26, 6:10] = 1  # 17 x 12 x 10 mm
    turn = ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(axes))
    stored, labels_stored = (
        nib.Nifti1Image(values, np.diag([*SPACING, 1])).as_reoriented(turn) for values in (image, labels)
    )
    path = folder / "case$1$_a.nii.gz"  # no mathematics in the title
    nib.save(stored, path)
    pixels = torch.from_numpy(labels_stored.get_fdata(dtype=np.float32).copy())
    return MetaTensor(pixels[None], affine=stored.affine, meta={"filename_or_obj": str(path)})


def pixels_of(png: Path, color: tuple[int, int, int]) -> list[np.ndarray]:
    """Row and column of each pixel of a color in each plane, arrays ``(N, 2)``."""
    picture = np.rint(imread(png)[: -int(0.85 * 120), :, :3] * 255)  # without the legend
    found = np.argwhere((np.abs(picture - color) < 3).all(-1))
    return [found[(found[:, 1] >= left) & (found[:, 1] < right)] for left, right in PLANES]


def test_structures_lie_where_radiologists_expect_them(tmp_path: Path) -> None:
    data = {"pred": case(tmp_path)}
    assert SavePreviewd("pred", tmp_path / "out", STRUCTURES)(data) == data
    png = tmp_path / "out" / "case$1$_a_preview.png"
    planes = zip(pixels_of(png, ORANGE), pixels_of(png, BLUE), strict=True)
    axial, coronal, sagittal = (orange.mean(0) - blue.mean(0) for orange, blue in planes)
    assert axial[0] < 0 and axial[1] < 0  # the right is at the left, the front above
    assert coronal[0] < 0 and coronal[1] < 0  # the right at the left, the top above
    assert sagittal[0] < 0 and sagittal[1] < 0  # the front at the left, the top above


def test_a_mm_is_as_long_in_every_plane(tmp_path: Path) -> None:
    SavePreviewd("pred", tmp_path, {1: "one"})({"pred": case(tmp_path)})
    for found, size in zip(
        pixels_of(tmp_path / "case$1$_a_preview.png", ORANGE), ((12, 17), (10, 17), (10, 12)), strict=True
    ):
        np.testing.assert_allclose(np.ptp(found, axis=0) / SCALE, size, atol=0.5)  # mm: height, width


@pytest.mark.parametrize("axes", ["LPI", "PSR", "LAS"])
def test_the_stored_axes_do_not_matter(tmp_path: Path, axes: str) -> None:
    SavePreviewd("pred", tmp_path / "ras", STRUCTURES)({"pred": case(tmp_path)})
    SavePreviewd("pred", tmp_path / axes, STRUCTURES)({"pred": case(tmp_path, axes)})
    first, second = (imread(tmp_path / folder / "case$1$_a_preview.png") for folder in ("ras", axes))
    np.testing.assert_allclose(first, second, atol=0.02)


def test_nothing_segmented_still_gives_a_picture(tmp_path: Path) -> None:
    SavePreviewd("pred", tmp_path, STRUCTURES)({"pred": case(tmp_path, empty=True)})
    png = tmp_path / "case$1$_a_preview.png"
    assert not any(len(found) for color in (ORANGE, BLUE) for found in pixels_of(png, color))
    assert imread(png)[..., :3].std() > 0.1


def test_a_trailing_axis_of_one_frame_is_taken(tmp_path: Path) -> None:
    pred = case(tmp_path)
    image = nib.load(pred.meta["filename_or_obj"])
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32)[..., None], image.affine), tmp_path / "frame.nii")
    pred.meta["filename_or_obj"] = str(tmp_path / "frame.nii")
    SavePreviewd("pred", tmp_path, STRUCTURES, data_root_dir=tmp_path)({"pred": pred})
    assert all(len(found) > 100 for found in pixels_of(tmp_path / "frame_preview.png", ORANGE))


def test_another_grid_than_the_file_s_is_refused(tmp_path: Path) -> None:
    pred = case(tmp_path)[:, :20]
    message = (
        r"case.*: its grid is \(40, 30, 12\), but the label map's is \(20, 30, 12\); place SavePreviewd after `Inv"
    )
    with pytest.raises(ValueError, match=message):
        SavePreviewd("pred", tmp_path, STRUCTURES)({"pred": pred})


def test_gray_follows_the_window(tmp_path: Path) -> None:
    """Blocks of HU; -60 is a quarter of the way from -160 to 240 HU."""
    values = np.array([-1000, -160, -60, 40, 140, 240, 2000, 0], np.float32)
    image = np.repeat(values, 5)[:, None, None] * np.ones((1, *SHAPE[1:]), np.float32)  # along the first axis
    pred = case(tmp_path, empty=True)
    nib.save(nib.Nifti1Image(image, pred.affine.numpy()), pred.meta["filename_or_obj"])
    pictures = []
    for window in ("soft_tissue", [40, 400], "bone", None):
        SavePreviewd("pred", tmp_path, STRUCTURES, window=window)({"pred": pred})
        pictures.append(imread(tmp_path / "case$1$_a_preview.png")[:, :, :3])
    soft_tissue, same, bone, percentiles = (grays(picture) for picture in pictures)
    np.testing.assert_allclose(soft_tissue, np.clip((values + 160) / 400, 0, 1), atol=0.01)
    np.testing.assert_allclose(bone, np.clip((values + 500) / 1800, 0, 1), atol=0.01)
    np.testing.assert_allclose(percentiles, (values + 1000) / 3000, atol=0.01)
    np.testing.assert_array_equal(soft_tissue, same)


def grays(picture: np.ndarray) -> np.ndarray:
    """Gray in the middle of each block of 5 mm in the axial plane, whose left is the patient's right."""
    row = int(0.85 * 120) + 10 * SCALE
    columns = [PLANES[0][1] - 1 - int((5 * block + 2.5) * SCALE) for block in range(8)]
    return picture[row, columns].mean(-1)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("head", "`window` must be one of lung, mediastinum, .*, or center and width, got 'head'"),
        ([40, 0], r"`window` must be a center and a positive width in HU, got \[40, 0\]"),
    ],
)
def test_a_window_that_is_none_is_refused_before_any_case(tmp_path: Path, window: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SavePreviewd("pred", tmp_path, STRUCTURES, window=window)
