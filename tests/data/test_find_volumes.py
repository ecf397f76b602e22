"""Files, folders and lists of these become datalists; places without volumes are named."""

from __future__ import annotations

import re
from pathlib import Path

import dicom_files as made
import pytest
from monai.transforms import LoadImage

from monai_crossd.data import SimpleITKReader, VolumeError, case_name, find_volumes, one_series


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
        (
            "notes.txt",
            "is not named as NIfTI, NRRD, MetaImage or a datalist, but '.txt'; give the folder of a DICOM series.",
        ),
        ("empty", "holds no volumes; name a folder with NIfTI, NRRD, MetaImage or DICOM files (*.nii.gz, *.dcm)."),
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
        ("data/p.7/ct.1", "data", "p.7/ct"),
        ("data/p7/ct", "data", "p7/ct"),
    ],
)
def test_a_case_is_named_by_its_path_without_the_suffix(path: str, root: str, name: str) -> None:
    assert case_name(path, root) == name


def test_mixed_and_nested_folders(tmp_path: Path) -> None:
    alone = made.write_series(tmp_path / "p 1" / "ct")
    two = [made.write_series(tmp_path / "p2", seed=seed) for seed in (0, 1)]
    (tmp_path / "p2" / "t1.nii.gz").touch()
    (tmp_path / "é.mha").touch()
    names = ["p 1/ct", *sorted(f"p2/series_{uid.replace('.', '_')}" for uid in two), "p2/t1.nii.gz", "é.mha"]
    found = [case["image"] for case in find_volumes(tmp_path)]
    assert found == [str(tmp_path / name) for name in names]
    assert [one_series(path).uid for path in found[:3]] == [alone, *sorted(two, key=lambda uid: uid.replace(".", "_"))]
    assert case_name(found[1], tmp_path) == names[1]
    for path in found[:3]:
        assert LoadImage(reader=SimpleITKReader())(path).shape == made.SHAPE


def test_one_series_of_several_by_its_name(tmp_path: Path) -> None:
    for seed in (0, 1):
        made.write_series(tmp_path / "in", seed=seed)
    first, _ = find_volumes(tmp_path)
    assert find_volumes(first["image"]) == [first]
    with pytest.raises(VolumeError, match=r"series_1_2: holds no series 1\.2, but series .*; series .*; choose one"):
        find_volumes(tmp_path / "in" / "series_1_2")
    with pytest.raises(VolumeError, match=r"series_1\.nii: does not exist; check the path"):
        find_volumes(tmp_path / "in" / "series_1.nii")
