"""Files, folders and lists of these become datalists; places without volumes are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monai_crossd.data import VolumeError, case_name, find_volumes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.nii",
        "a.nii.gz",
        "sub/c.nii.gz",
        ".hidden.nii.gz",
        ".cache/d.nii.gz",
        "notes.txt",
        "e.nii.gz.part",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_is_searched_with_its_subfolders_and_sorted(folder: Path) -> None:
    expected = [{"image": str(folder / name)} for name in ("a.nii.gz", "b.nii", "sub/c.nii.gz")]
    assert find_volumes(folder) == expected


def test_files_and_folders_keep_the_order_given(folder: Path) -> None:
    paths = [str(folder / "sub"), folder / "a.nii.gz"]
    assert find_volumes(paths) == [{"image": str(folder / "sub/c.nii.gz")}, {"image": str(folder / "a.nii.gz")}]
    assert find_volumes(folder / "b.nii") == [{"image": str(folder / "b.nii")}]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.nii.gz", "does not exist; check the path."),
        ("notes.txt", "is not named as a NIfTI file (*.nii, *.nii.gz), but '.txt'; convert it first."),
        ("empty", "holds no volumes; name a folder with *.nii or *.nii.gz files."),
    ],
)
def test_unusable_paths_are_refused_by_name(folder: Path, name: str, reason: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(VolumeError, match=f"^{re.escape(f'{folder / name}: {reason}')}$") as caught:
        find_volumes([folder / "a.nii.gz", folder / name])
    assert caught.value.args == (str(folder / name), reason)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="`paths` must name at least one file or folder, got an empty list"):
        find_volumes([])


@pytest.mark.parametrize(
    ("path", "root", "name"),
    [
        ("data/p.7/t1.nii.gz", "data", "p.7/t1"),
        ("data/t1.nii", "data", "t1"),
        ("data/p7/t1.v2.nii.gz", "", "t1.v2"),
    ],
)
def test_a_case_is_named_by_its_path_without_the_suffix(path: str, root: str, name: str) -> None:
    assert case_name(path, root) == name
