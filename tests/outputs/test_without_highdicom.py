"""DICOM-SEG needs highdicom, other files do not; who asks is told before any work."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import dicom_files as made
import pytest
import torch
from monai.data import MetaTensor

from monai_crossd.data import find_volumes
from monai_crossd.outputs import SaveDicomSegd, dicom_seg_fault

MISSING = (
    r"highdicom is needed to write .* \(.*highdicom.*\); install it by `pip install \"monai_crossd\[dicom-seg\]\"`, or"
)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)


def save(folder: Path, image: Path) -> None:
    labels = MetaTensor(torch.ones(1, 2, 2, 2), meta={"filename_or_obj": str(image)})
    code = {"type": ["5366008", "SCT", "Hippocampus"]}
    SaveDicomSegd("pred", folder, {1: "one"}, "net", "1.2", codes={1: code})({"pred": labels})


def test_nifti_gives_nothing_and_needs_none(tmp_path: Path, absent: None) -> None:
    save(tmp_path / "out", tmp_path / "t1.nii.gz")
    assert not (tmp_path / "out").exists()


def test_dicom_is_refused(tmp_path: Path, absent: None) -> None:
    made.write_series(tmp_path / "in")
    with pytest.raises(ModuleNotFoundError, match=MISSING):
        save(tmp_path / "out", tmp_path / "in")


def test_the_fault_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a series alone in its folder and of two in one; not of other files, nor of what cannot be read at all."""
    made.write_series(tmp_path / "one")
    for seed in (1, 2):
        made.write_series(tmp_path / "two", seed=seed)
    series = [case["image"] for case in find_volumes(tmp_path)]
    others = [str(tmp_path / name) for name in ("t1.nii.gz", "t1.nrrd", "damaged.dcm", "t1.mgz")]
    assert len(series) == 3 and dicom_seg_fault([*series, *others]) is None
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert dicom_seg_fault(others) is None and dicom_seg_fault([]) is None
    assert all(re.match(MISSING, dicom_seg_fault([*others, one]) or "") for one in series)
