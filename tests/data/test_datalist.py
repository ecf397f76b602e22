from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_crossd.data import VolumeError, find_volumes, read_datalist


def write(file: Path, content: object) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_csv(tmp_path):
    file = write(tmp_path / "cases.csv", "image,label,fold\na.nii.gz,labels/a.nii.gz,0\n/data/é b.nii,,1\n")
    expected = [
        {"image": str(tmp_path / "a.nii.gz"), "label": str(tmp_path / "labels/a.nii.gz"), "fold": "0"},
        {"image": "/data/é b.nii", "fold": "1"},
    ]
    assert read_datalist(file) == find_volumes(file) == expected


def test_json_of_the_decathlon(tmp_path):
    content = {
        "name": "Task",
        "training": [{"image": "./a.nii.gz", "label": "./l.nii.gz"}],
        "validation": [{"image": "b.nii.gz"}],
        "test": ["c.nii.gz"],
    }
    file = write(tmp_path / "dataset.json", content)
    assert [Path(case["image"]).name for case in read_datalist(file)] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert [Path(case["image"]).name for case in read_datalist(file, "validation")] == ["b.nii.gz"]
    assert read_datalist(write(tmp_path / "list.json", ["a.nii"])) == [{"image": str(tmp_path / "a.nii")}]
    classes = write(tmp_path / "classes.json", [{"image": "a.nii", "label": 3}])
    assert read_datalist(classes) == [{"image": str(tmp_path / "a.nii"), "label": 3}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "names no case; give a row for each volume"),
        ("a.csv", "path\na.nii\n", "must name an `image` for every case, got none in case 1"),
        ("a.csv", 'image\na.nii\n""\n', "must name an `image` for every case, got none in case 2"),
        ("a.json", "{", "cannot be read as a datalist .JSONDecodeError"),
        ("a.json", {"cases": []}, "must hold a list named 'training', 'validation', 'test', 'testing', got 'cases'"),
        ("a.json", {"training": {}}, "must hold a list named 'training', got 'training'"),
        ("a.json", '"a.nii.gz"', "must hold a list of cases, got 'a.nii.gz'"),
        (
            "a.csv",
            "image,label\na.nii,b.nii,c.nii\n",
            r"must have a name for every column, got \['c.nii'\] beyond them in case 1",
        ),
        ("a.json", {"training": [{"label": "a"}]}, "must name an `image` for every case, got none in case 1"),
    ],
)
def test_what_is_no_datalist(name, content, message, tmp_path):
    with pytest.raises(VolumeError, match=f"{name}: {message}"):
        read_datalist(write(tmp_path / name, content))


def test_missing(tmp_path):
    with pytest.raises(VolumeError, match=r"none\.csv: does not exist; check the path"):
        find_volumes(tmp_path / "none.csv")
