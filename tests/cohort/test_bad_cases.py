"""A bad case is refused by itself, with its reason, and the others go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from cohort_runs import ALL, Threshold, run, save, volumes
from monai.data import MetaTensor

from monai_crossd.outputs import write_volumes


def broken_file(folder: Path) -> dict[str, Any]:
    file = folder / "in" / "c.nii.gz"
    file.write_bytes(file.read_bytes()[:100])
    return {}


def broken_values(folder: Path) -> dict[str, Any]:
    nib.save(nib.Nifti1Image(np.full((6, 5, 4), np.nan, np.float32), np.eye(4)), folder / "in" / "c.nii.gz")
    return {}


def marked(folder: Path, **options: Any) -> dict[str, Any]:
    image = nib.load(save(folder / "in" / "c.nii.gz", bright=3))
    values = image.get_fdata(dtype=np.float32)
    values[-1, -1, -1] = -99
    nib.save(nib.Nifti1Image(values, image.affine), folder / "in" / "c.nii.gz")
    return options


def broken_transform(folder: Path) -> dict[str, Any]:
    def before(image: MetaTensor) -> MetaTensor:
        if (image == -99).any():
            raise IndexError("out of range")
        return image

    return marked(folder, before=before)


def broken_network(folder: Path) -> dict[str, Any]:
    return marked(folder, network=Threshold(bad=-99))


def broken_place(folder: Path) -> dict[str, Any]:
    (folder / "out" / "c_seg.nii.gz").mkdir(parents=True)
    return {}


def long_name(folder: Path) -> dict[str, Any]:
    (folder / "in" / "c.nii.gz").rename(folder / "in" / f"{'c' * 240}.nii.gz")
    return {}


@pytest.mark.filterwarnings("ignore:.*divide|.*invalid value")
@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (broken_file, "cannot be read to its end as NIfTI (EOFError"),
        (broken_values, "must hold finite values, got 120 of 120 NaN"),
        (broken_transform, "could not be prepared (IndexError: out of range); records/c.json has the traceback."),
        (broken_network, "could not be processed (RuntimeError: no luck with it); records/c.json has the traceback."),
        (broken_place, "could not be processed (IsADirectoryError: "),
        (long_name, "must have a name of at most 200 bytes for its results, got 240; rename it."),
    ],
)
def test_a_bad_case_in_the_middle_is_refused_alone(folder: Path, break_it: Any, reason: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(folder, **break_it(folder))
    first, line = str(caught.value).splitlines()
    assert first == "Refused 1 of 5 inputs:" and line.startswith(f"  {folder / 'in' / 'c'}") and reason in line
    assert volumes(folder) == {name: volume for name, volume in ALL.items() if name != "c"}
    page = (folder / "out" / "index.html").read_text()
    assert "4 of 5 inputs done. 1 refused." in page and reason.split("(")[0] in page
    assert not (folder / "out" / ".partial").exists()


def test_the_traceback_is_kept(folder: Path) -> None:
    with pytest.raises(SystemExit):
        run(folder, **broken_network(folder))
    record = json.loads((folder / "out" / "records" / "c.json").read_text())
    assert record["state"] == "refused" and "no luck" in record["traceback"] and "in forward" in record["traceback"]


def test_a_refused_case_is_tried_again(folder: Path) -> None:
    good = (folder / "in" / "c.nii.gz").read_bytes()
    with pytest.raises(SystemExit):
        run(folder, **broken_file(folder))
    (folder / "in" / "c.nii.gz").write_bytes(good)
    assert run(folder).seen == 1
    assert volumes(folder) == ALL and "refused" not in (folder / "out" / "index.html").read_text()


def test_a_case_that_turned_bad_loses_its_results(folder: Path) -> None:
    run(folder)
    with pytest.raises(SystemExit):
        run(folder, **broken_values(folder))
    assert not (folder / "out" / "c_seg.nii.gz").exists() and "c" not in volumes(folder)


def test_a_table_of_nothing_is_told(folder: Path) -> None:
    with pytest.raises(SystemExit, match="postprocessing gives no 'dose' for the cohort's `tables`"):
        run(folder, tables={"dose": write_volumes})
