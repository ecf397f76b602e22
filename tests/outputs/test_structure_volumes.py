"""Volumes are those in mL that a box of known size has, whatever the axes and the spacing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    Spacingd,
)

from monai_crossd.outputs import StructureVolumesd, write_volumes

STRUCTURES = {"1": "anterior", "2": "posterior"}  # as JSON gives it
OBLIQUE = np.array([[0, 0, 2.0, 7], [-0.5, 0, 0, 3], [0, 3.0, 0.4, -33], [0, 0, 0, 1]])  # voxels of 3 mm³


def label_map(file: str, front: int, back: int, affine: np.ndarray = OBLIQUE) -> MetaTensor:
    """Put ``front`` voxels of label 1 and ``back`` voxels of label 2 into a grid ``(10, 8, 6)``."""
    labels = torch.zeros(480)
    labels[:front], labels[front : front + back] = 1, 2
    return MetaTensor(labels.reshape(1, 10, 8, 6), affine=affine, meta={"filename_or_obj": file})


def test_volumes_join_the_data() -> None:
    data = {"pred": label_map("in/p1/t1.nii.gz", 100, 50), "other": 1}
    measured = StructureVolumesd("pred", STRUCTURES)(data)
    assert measured["volumes_ml"] == pytest.approx({"anterior": 0.3, "posterior": 0.15})
    assert measured.keys() - data.keys() == {"volumes_ml"} and measured["pred"] is data["pred"]


ROWS = [
    {"case": "p1/t1", "file": "/in/p1/t1.nii.gz", "volumes_ml": {"anterior": 0.3, "posterior, tail": 0.15}},
    {"case": "p2/t1", "file": "/in/p2/t1.nii", "volumes_ml": {"anterior": 0.0, "posterior, tail": 0.00749}},
]


def test_tables_are_exact(tmp_path: Path) -> None:
    write_volumes(tmp_path / "results" / "today", ROWS)
    table = (tmp_path / "results" / "today" / "volumes.csv").read_text()
    header = 'case,anterior [mL],"posterior, tail [mL]",total [mL]\n'
    assert table == header + "p1/t1,0.300,0.150,0.450\np2/t1,0.000,0.007,0.007\n"
    notice = "Not for diagnostic use"
    assert json.loads((tmp_path / "results" / "today" / "volumes.json").read_text()) == [
        ROWS[0] | {"total_ml": 0.45, "notice": notice},
        ROWS[1] | {"volumes_ml": {"anterior": 0.0, "posterior, tail": 0.007}, "total_ml": 0.007, "notice": notice},
    ]
    assert sorted(os.listdir(tmp_path / "results" / "today")) == ["volumes.csv", "volumes.json"]


def test_tables_without_cases(tmp_path: Path) -> None:
    write_volumes(tmp_path, [])
    assert (tmp_path / "volumes.csv").read_text() == "case,total [mL]\n"
    assert json.loads((tmp_path / "volumes.json").read_text()) == []


def test_a_failed_write_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volumes(tmp_path, ROWS[:1])
    before = (tmp_path / "volumes.csv").read_text()

    def full(self: Path, text: str, **kwargs: str) -> int:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_volumes(tmp_path, ROWS)
    assert (tmp_path / "volumes.csv").read_text() == before


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # of LoadImaged, where pydicom has no such plugin
def test_a_box_keeps_its_volume_through_a_bundle_s_transforms(tmp_path: Path) -> None:
    image = np.zeros((20, 16, 12), np.float32)
    image[4:14, 4:10, 2:8] = 100  # 360 voxels of 6 mm³
    affine = np.array([[0, 0, 2.0, 7], [-1, 0, 0, 3], [0, 3, 0, -33], [0, 0, 0, 1]])  # PSR
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "box.nii.gz")
    before = Compose(
        [
            LoadImaged("image", reader="NibabelReader"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(1.0, 1.0, 1.0), mode="nearest"),
        ]
    )
    after = Compose(
        [
            Invertd("pred", before, "image", nearest_interp=True),
            SaveImaged(
                "pred",
                output_dir=tmp_path,
                output_postfix="seg",
                separate_folder=False,
                resample=False,
                print_log=False,
            ),
            StructureVolumesd("pred", {1: "box"}),
        ]
    )
    (case,) = decollate_batch(list_data_collate([before({"image": str(tmp_path / "box.nii.gz")})]))
    case["pred"] = (case["image"] > 50).float()
    assert after(case)["volumes_ml"] == pytest.approx({"box": 2.16})
    written = nib.load(tmp_path / "box_seg.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(), image / 100)
    np.testing.assert_allclose(written.affine, affine)


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        (torch.zeros(1, 2, 2, 2), "'pred' must be a MetaTensor that knows its file; place StructureVolumesd after"),
        (MetaTensor(torch.zeros(1, 2, 2, 2)), "'pred' must be a MetaTensor that knows its file; place"),
        (
            label_map("a.nii", 1, 1).expand(3, -1, -1, -1),
            r"'pred' must be a label map of shape \(1, D1, D2, D3\), got \(3, 10, 8, 6\); place .* after `AsDiscreted`",
        ),
        (label_map("a.nii", 1, 1)[0], r"'pred' must be a label map of shape .*, got \(10, 8, 6\)"),
    ],
)
def test_what_is_no_label_map_is_refused(pred: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StructureVolumesd("pred", STRUCTURES)({"pred": pred})


@pytest.mark.parametrize("structures", [{}, {"one": "anterior"}, {1.5: "anterior"}, {-1: "anterior"}])
def test_labels_must_be_integers(structures: dict) -> None:
    with pytest.raises(ValueError, match=r"`structures` must map label values such as 1 to names, got \{"):
        StructureVolumesd("pred", structures)


def test_one_label_map_each() -> None:
    with pytest.raises(ValueError, match=r"`keys` must name one label map, got \('a', 'b'\); add a transform for each"):
        StructureVolumesd(["a", "b"], STRUCTURES)
