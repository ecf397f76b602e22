"""In a list the good volumes go on and the refused ones are summed up; in a bundle, without a traceback."""

from __future__ import annotations

import pickle
from pathlib import Path

import dicom_files as made
import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_crossd.data import Screening, VolumeError, raise_refused, screen


def save(path: Path, value: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).normal(size=(4, 5, 6)) if value is None else np.full((4, 5, 6), value)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), path)
    return path


def test_good_volumes_go_on_and_the_others_are_named(tmp_path: Path) -> None:
    good = [save(tmp_path / "in" / name) for name in ("a/t1.nii.gz", "b/t1.nii.gz")]
    flat, missing, empty = save(tmp_path / "in/b/t2.nii.gz", 3), tmp_path / "missing.nii.gz", tmp_path / "empty"
    empty.mkdir()
    screening = screen([tmp_path / "in", missing, empty])
    assert screening.good == [{"image": str(path)} for path in good]
    assert screening.root == str(tmp_path / "in")
    assert [error.args[0] for error in screening.refused] == [str(missing), str(empty), str(flat)]
    with pytest.raises(SystemExit) as caught:
        raise_refused(screening)
    assert str(caught.value).splitlines() == [
        "Refused 3 of 5 inputs:",
        f"  {missing}: does not exist; check the path.",
        f"  {empty}: holds no volumes; name a folder with NIfTI, NRRD, MetaImage or DICOM files (*.nii.gz, *.dcm).",
        f"  {flat}: must show something, but every voxel is 3; export the image again.",
    ]


def test_nothing_is_raised_when_all_are_good(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz")
    screening = screen(str(path))
    assert screening == Screening([{"image": str(path)}], [], str(tmp_path))
    raise_refused(screening)


def test_channels_are_passed_on(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="must have 2 channels, got 1"):
        screen(save(tmp_path / "a.nii.gz"), channels=2)


def test_modality_is_passed_on(tmp_path: Path) -> None:
    made.write_series(tmp_path)
    with pytest.raises(SystemExit, match="must be of modality MR, got CT; choose another series"):
        screen(tmp_path, modality="MR")


def test_it_ends_at_once_when_none_is_good(tmp_path: Path) -> None:
    flat = save(tmp_path / "flat.nii.gz", 0)
    with pytest.raises(SystemExit, match=r"^Refused 1 of 1 inputs:\n  .*flat\.nii\.gz: must show something"):
        screen(flat)
    with pytest.raises(ValueError, match="`paths` must name at least one file or folder"):
        screen([])


def test_no_result_is_written_over_another(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.nii"), save(tmp_path / "a.nii.gz")
    screening = screen(tmp_path)
    assert screening.good == [{"image": str(first)}]
    assert [str(error) for error in screening.refused] == [
        f"{second}: has the same output name, 'a', as {first}; rename or drop one."
    ]


def test_the_root_is_the_closest_folder_of_those_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in/a/t1.nii.gz")
    save(tmp_path / "in/b/t1.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert screen(["in/a/t1.nii.gz", "in/b", "elsewhere/t1.nii.gz"]).root == str(tmp_path / "in")


def test_a_bar_is_shown_on_stderr_for_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen([save(tmp_path / "a.nii.gz"), save(tmp_path / "b.nii.gz")])
    out, err = capsys.readouterr()
    assert out == "" and "Checking volumes: 100%" in err and "2/2" in err
    screen(tmp_path / "a.nii.gz")
    assert capsys.readouterr() == ("", "")


CONFIG = {
    "imports": ["$import monai_crossd", "$import monai_crossd.data"],
    "cases": "$monai_crossd.data.screen(@dataset_dir)",
    "data": "$@cases.good",
    "root": "$@cases.root",
    "run": ["$print(len(@data))", "$monai_crossd.data.raise_refused(@cases)"],
}


def test_a_config_sees_the_parts(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz")
    parser = ConfigParser({**CONFIG, "dataset_dir": str(tmp_path)})
    assert parser.get_parsed_content("data") == [{"image": str(path)}]
    assert parser.get_parsed_content("root") == str(tmp_path)


@pytest.mark.parametrize(("names", "written"), [(["a.nii.gz", "b.nii.gz"], "1\n"), (["b.nii.gz"], "")])
def test_a_bundle_ends_with_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], written: str
) -> None:
    save(tmp_path / "a.nii.gz")
    parser = ConfigParser({**CONFIG, "dataset_dir": [str(tmp_path / name) for name in names]})
    with pytest.raises(SystemExit) as caught:  # not the RuntimeError that a config makes of other errors
        parser.get_parsed_content("run")
    missing = f"  {tmp_path / 'b.nii.gz'}: does not exist; check the path."
    assert caught.value.code == f"Refused 1 of {len(names)} inputs:\n{missing}"  # exit code 1 with this on stderr
    assert capsys.readouterr().out == written  # the good one ran


def test_errors_survive_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(VolumeError("a.nii", "is bad.")))
    assert str(error) == "a.nii: is bad."
