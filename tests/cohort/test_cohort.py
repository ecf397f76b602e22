"""Done cases stay, what has changed is run again; what is killed is taken up again."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from cohort_runs import ALL, Threshold, make, run, save, times, volumes
from filelock import FileLock
from monai.data import MetaTensor

from monai_crossd.cohort import cohort, flag


def test_a_second_run_has_nothing_to_do(folder: Path) -> None:
    assert run(folder).seen == 5
    assert volumes(folder) == ALL
    assert np.count_nonzero(nib.load(folder / "out" / "sub" / "e_seg.nii.gz").dataobj) == 5
    before = times(folder)
    assert run(folder).seen == 0
    assert times(folder) == before and volumes(folder) == ALL
    left = {file.name for file in (folder / "out").iterdir()}
    cases = {f"{name}_seg.nii.gz" for name in "abcd"}
    assert left == cases | {"sub", "records", "volumes.csv", "volumes.json", "index.html"}


def test_a_new_case_joins_the_old_ones(folder: Path) -> None:
    (folder / "in" / "c.nii.gz").rename(folder / "later.nii.gz")
    run(folder)
    before = times(folder)
    (folder / "later.nii.gz").rename(folder / "in" / "c.nii.gz")
    assert run(folder).seen == 1
    assert volumes(folder) == ALL and before.items() < times(folder).items()
    assert "5 of 5 inputs done." in (folder / "out" / "index.html").read_text()


def test_what_has_changed_is_run_again(folder: Path) -> None:
    def todo(**options: Any) -> list[str]:
        return [case["case"] for case in make(folder, **options).share]

    settings = {"roi_size": (1, 2), "structures": {1: "one"}}
    run(folder, settings=settings)
    assert todo(settings=settings) == []
    assert todo(settings={**settings, "roi_size": (1, 3)}) == list(ALL)
    assert todo(settings=settings, overwrite="true") == todo(settings=settings, overwrite=True) == list(ALL)
    save(folder / "in" / "b.nii.gz", bright=20)
    (folder / "out" / "d_seg.nii.gz").write_bytes(b"cut off")
    (folder / "out" / "sub" / "e_seg.nii.gz").unlink()
    (folder / "out" / "records" / "a.json").write_text("{")
    assert todo(settings=settings, overwrite="False") == ["a", "b", "d", "sub/e"]
    run(folder, settings=settings)
    assert volumes(folder) == ALL | {"b": 0.02} and todo(settings=settings) == []
    (folder / "model.pt").write_bytes(b"others!")
    assert todo(settings=settings) == list(ALL)


def test_results_of_other_weights_do_not_mix(folder: Path) -> None:
    """A run with another checkpoint that is stopped leaves no row of the first one's in the table."""
    run(folder)
    (folder / "model.pt").write_bytes(b"other weights")
    with pytest.raises(KeyboardInterrupt):
        run(folder, Threshold(stop=3), before=lambda image: -image)
    assert volumes(folder) == {"a": 0.119}
    assert run(folder, before=lambda image: -image).seen == 3
    assert volumes(folder) == {name: round(0.12 - volume, 3) for name, volume in ALL.items()}


def test_a_name_in_another_encoding(folder: Path) -> None:
    try:
        save(folder / "in" / "c.nii.gz").rename(os.fsdecode(bytes(folder / "in") + b"/\xe9.nii.gz"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    run(folder)
    assert '"%E9_seg.nii.gz"' in (folder / "out" / "index.html").read_text() and len(volumes(folder)) == 5


def test_files_that_a_case_no_longer_has_are_removed(folder: Path) -> None:
    run(folder)
    record = folder / "out" / "records" / "a.json"
    content = json.loads(record.read_text())
    old = folder / "out" / "a_uncertainty.nii.gz"
    old.write_bytes(b"old")
    record.write_text(json.dumps(content | {"files": content["files"] | {old.name: 3}}))
    run(folder)
    assert old.exists()
    run(folder, overwrite=True)
    assert not old.exists() and volumes(folder) == ALL


def test_an_interrupted_run_is_taken_up(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, Threshold(stop=3))
    whole = times(folder)
    assert [Path(file).name for file in whole] == ["a_seg.nii.gz", "b_seg.nii.gz"]
    assert (folder / "out" / ".partial").exists()
    assert run(folder).seen == 3
    assert whole.items() < times(folder).items()
    assert volumes(folder) == ALL and not (folder / "out" / ".partial").exists()


def test_tables_and_page_come_with_the_first_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "write_report", lambda *arguments: pages.append(arguments))
    pages: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        run(folder, Threshold(stop=3))
    assert volumes(folder) == {"a": 0.001} and [page[-1] for page in pages] == [4], "four are still to come"


def test_a_bar_is_shown_on_stderr(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(folder)
    assert "Cases: 100%" in (error := capfd.readouterr().err) and "5/5" in error


def test_memory_does_not_grow(folder: Path) -> None:
    """After every case as many tensors and arrays are alive as after the third one."""
    for index in range(10):
        save(folder / "in" / f"more_{index}.nii.gz", seed=index)
    counts = []

    def count(image: MetaTensor) -> MetaTensor:
        gc.collect()
        counts.append(sum(issubclass(type(thing), (torch.Tensor, np.ndarray)) for thing in gc.get_objects()))
        return image

    run(folder, before=count)
    assert len(counts) == 15 and max(counts[3:]) <= counts[2]


def test_one_run_at_a_time(folder: Path) -> None:
    (folder / "out" / "records").mkdir(parents=True)
    with FileLock(folder / "out" / "records" / ".lock"), pytest.raises(SystemExit, match="out: another run writes to"):
        run(folder)
    assert run(folder).seen == 5


def test_an_output_dir_that_cannot_be(folder: Path) -> None:
    (folder / "out").write_text("a file")
    with pytest.raises(SystemExit, match=r"out: cannot be written to \(.*\); make room or name another `output_dir`"):
        run(folder)


def test_results_are_no_inputs(folder: Path) -> None:
    (folder / "out").symlink_to(folder / "in" / "results")
    (folder / "in" / "results").mkdir()
    run(folder)
    assert volumes(folder) == ALL and run(folder).seen == 0


def test_one_case_per_batch(folder: Path) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be 1, got 2: each case is done or refused alone"):
        make(folder).iteration(None, {"case": ["a", "b"]})


def test_overwrite_is_true_or_false(folder: Path) -> None:
    with pytest.raises(ValueError, match="`overwrite` must be true or false, got 'yes'"):
        make(folder, overwrite="yes")


def test_what_is_missing_ends_the_run_before_any_work(folder: Path) -> None:
    """The fault is asked about what is still to do, and nothing is written."""
    asked: list[list[str]] = []

    def fault(images: list[str]) -> str | None:
        asked.append([Path(image).name for image in images])
        return "a tool is missing; install it." if images else None

    with pytest.raises(SystemExit, match=r"^a tool is missing; install it\.$"):
        run(folder, fault=fault)
    assert not (folder / "out").exists()
    run(folder, fault=lambda images: None)
    assert run(folder, fault=fault).seen == 0
    assert asked == [[f"{name}.nii.gz" for name in "abcde"], []]


@pytest.mark.parametrize(("value", "read"), [(True, True), ("true", True), ("False", False), (False, False)])
def test_flags_come_as_text_too(value: bool | str, read: bool) -> None:
    assert flag("overwrite", value) is read
