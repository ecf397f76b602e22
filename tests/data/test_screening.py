"""Volumes are listed, other inputs are summed up."""

from __future__ import annotations

import pickle
from pathlib import Path

import dicom_files
import nibabel as nib
import numpy as np
import pytest

from monai_crossd.data import Screening, VolumeError, case_name, list_cases


def save(path: Path, value: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).normal(size=(4, 5, 6)) if value is None else np.full((4, 5, 6), value)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), path)
    return path


def test_volumes_are_listed_and_other_paths_are_named(tmp_path: Path) -> None:
    good = [save(tmp_path / "in" / name) for name in ("a/t1.nii.gz", "b/t1.nii.gz")]
    missing, empty = tmp_path / "missing.nii.gz", tmp_path / "empty"
    empty.mkdir()
    listing = list_cases([tmp_path / "in", missing, empty])
    assert listing.good == [{"image": str(path)} for path in good]
    assert listing.root == str(tmp_path / "in")
    assert listing.summary().splitlines() == [
        "Refused 2 of 4 inputs:",
        f"  {missing}: does not exist; check the path.",
        f"  {empty}: holds no volumes; name a folder with NIfTI, NRRD, MetaImage or DICOM files (*.nii.gz, *.dcm).",
    ]


def test_nothing_is_raised_when_all_are_good(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz")
    listing = list_cases(str(path))
    assert listing == Screening([{"image": str(path)}], [], str(tmp_path))
    assert listing.summary() == ""


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="`paths` must name at least one file or folder"):
        list_cases([])


def test_no_volume_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    assert list_cases(tmp_path).good == [{"image": str(tmp_path / "a.nii.gz")}]


def test_no_result_is_written_over_another(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.nii"), save(tmp_path / "a.nii.gz")
    listing = list_cases(tmp_path)
    assert listing.good == [{"image": str(first)}]
    assert [str(error) for error in listing.refused] == [
        f"{second}: has the same output name, 'a', as {first}; rename or drop one."
    ]


def test_a_name_leaves_room_for_postfixes(tmp_path: Path) -> None:
    path = save(tmp_path / f"{'é' * 110}.nii.gz")
    (error,) = list_cases([path, save(tmp_path / f"{'a' * 200}.nii.gz")]).refused
    assert str(error) == f"{path}: must have a name of at most 200 bytes for its results, got 220; rename it."


def test_results_are_no_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image, result = save(tmp_path / "in" / "a.nii.gz"), save(tmp_path / "in" / "out" / "a_seg.nii.gz")
    for output_dir in ("in/out", tmp_path / "in" / "out"):
        assert list_cases("in", output_dir).good == [{"image": "in/a.nii.gz"}]
    assert list_cases(result, "in/out").good == [{"image": str(result)}], "named by itself"
    assert list_cases("in/out", "in").good == [{"image": "in/out/a_seg.nii.gz"}]
    reason = "in: must not be `output_dir` too, results would be taken for volumes; name another one."
    assert str(*list_cases("in", tmp_path / "in").refused) == reason
    image.unlink()
    reason = "in: holds no volumes but those of `output_dir`, in/out; name another folder."
    assert str(*list_cases("in", "in/out").refused) == reason


def test_the_root_is_the_closest_folder_of_those_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in/a/t1.nii.gz")
    save(tmp_path / "in/b/t1.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert list_cases(["in/a/t1.nii.gz", "in/b", "elsewhere/t1.nii.gz"]).root == str(tmp_path / "in")


def test_the_root_is_above_the_volumes_of_a_datalist(tmp_path: Path) -> None:
    """Else their results would lie outside of the folder of results."""
    save(tmp_path / "in" / "a" / "t1.nii.gz")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "cases.csv").write_text("image\n../in/a/t1.nii.gz\n")
    (case,) = (listing := list_cases(tmp_path / "lists" / "cases.csv")).good
    assert case_name(case["image"], listing.root) == "t1"


def test_the_root_is_above_a_series(tmp_path: Path) -> None:
    dicom_files.write_series(tmp_path / "ct")
    (case,) = (listing := list_cases(tmp_path / "ct")).good
    assert case_name(case["image"], listing.root) == "ct"


def test_errors_survive_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(VolumeError("a.nii", "is bad.")))
    assert str(error) == "a.nii: is bad."
