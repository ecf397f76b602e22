"""Whatever is raised becomes one sentence."""

from __future__ import annotations

import dicom_files
import pytest
from monai.transforms import Compose, Lambdad

from monai_crossd.cohort.dataset import CaseDataset, refusal
from monai_crossd.data import VolumeError


def raised(error: Exception) -> Exception:
    """What MONAI makes of an error in a transform."""

    def fail(_: object) -> None:
        raise error

    with pytest.raises(RuntimeError) as caught:
        Compose([Lambdad("x", fail)])({"x": 1})
    return caught.value


def test_a_volume_error_says_it_all() -> None:
    assert refusal("p/a", raised(VolumeError("a.nii", "must be good.")), "prepared") == ("must be good.", "")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("one\n  two."), "ValueError: one two"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("x" * 1000), f"RuntimeError: {'x' * 300}"),
        (
            RuntimeError("No writer.\nTraceback (most recent call):\n  in f\nOSError: disk full\n"),
            "RuntimeError: OSError: disk full",
        ),
    ],
)
def test_others_point_to_their_traceback(error: Exception, cause: str) -> None:
    reason, traceback = refusal("p/a", raised(error), "processed")
    assert reason == f"could not be processed ({cause}); records/p/a.json has the traceback."
    assert "in fail" in traceback


def test_a_missing_file_is_an_item(tmp_path) -> None:
    case = {"image": str(tmp_path / "a.nii.gz"), "case": "a"}
    (item,) = CaseDataset([case])
    assert item == case | {"refused": "does not exist; check the path.", "traceback": ""}


def test_a_dataset_refuses_another_modality(tmp_path):
    dicom_files.write_series(tmp_path)
    item = CaseDataset([{"image": str(tmp_path), "case": "a"}], modality="MR")[0]
    assert "must be of modality MR, got CT" in item["refused"]
