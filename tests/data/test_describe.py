from __future__ import annotations

import csv
import re

import dicom_files as made
import nibabel as nib
import numpy as np
import pytest

from monai_crossd.data import describe
from monai_crossd.data.__main__ import main

AFFINE = np.diag([-2.0, 1, 3, 1])


def save(file, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(values, affine), file)
    return str(file)


@pytest.fixture
def image(tmp_path):
    return save(tmp_path / "image.nii.gz", np.arange(60, dtype=np.float32).reshape(3, 4, 5))


def labels(*values):
    return np.resize(np.array(values), (3, 4, 5)).astype(np.float32)


def test_a_good_case(image, tmp_path):
    found = describe({"image": image, "label": save(tmp_path / "label.nii.gz", labels(0, 2, 1))})
    assert found == (image, (3, 4, 5), (2.0, 1.0, 3.0), "LAS", (0.0, 59.0), (0, 1, 2), ())
    assert found.as_row()["spacing [mm]"] == "2 x 1 x 3"


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (labels(0, 1)[1:], AFFINE, r"must have the image's grid, \(3, 4, 5\), got \(2, 4, 5\)\."),
        (labels(0, 1), np.eye(4), r"must have the image's affine, got one that differs by more than 0\.01 mm\."),
        (labels(0, 0.5), AFFINE, r"must hold whole numbers, got 2 values such as 0\.5\."),
        (labels(0, np.nan), AFFINE, "must hold whole numbers, got 2 values such as nan"),
    ],
)
def test_labels_that_do_not_belong(values, affine, message, image, tmp_path):
    (problem,) = describe({"image": image, "label": save(tmp_path / "label.nii.gz", values, affine)}).problems
    assert re.search(message, problem)


def test_every_problem_is_listed(tmp_path):
    values = np.ones((3, 4, 5), np.float32)
    found = describe({"image": save(tmp_path / "flat.nii.gz", values), "label": str(tmp_path / "none.nii.gz")})
    assert len(found.problems) == 2 and "every voxel is 1" in found.problems[0] and "none" in found.problems[1]


def test_the_command(image, tmp_path, capsys):
    made.write_series(tmp_path / "series")
    made.write_series(tmp_path / "broken", lambda slice_, index: setattr(slice_, "Rows", 7 + index))
    assert main([str(tmp_path), "--output", str(tmp_path / "table.csv")]) == 1
    printed = capsys.readouterr().out
    assert "3 cases, 1 with problems" in printed and "must have 120 bytes of pixels for 10 rows" in printed
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["shape"] for row in rows] == ["", "3 x 4 x 5", "6 x 5 x 4"]
    assert main([image]) == 0
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "nothing")])
    assert stopped.value.code == 2 and "does not exist; check the path." in capsys.readouterr().err
