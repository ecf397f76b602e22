"""Done cases stay, bad ones are refused by themselves, the others go on; what is killed is taken up again."""

from __future__ import annotations

import gc
import itertools
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from filelock import FileLock
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.transforms import Compose, EnsureChannelFirstd, Lambdad, LoadImaged, SaveImaged

from monai_crossd.cohort import CaseDataset, Cohort, cohort, processes
from monai_crossd.data import SimpleITKReader
from monai_crossd.outputs import StructureVolumesd, write_volumes

STRUCTURES = {"1": "bright"}


class Threshold(torch.nn.Module):
    """Label 1 above 0; fails at a volume that holds ``bad``, is interrupted at the volume number ``stop``."""

    def __init__(self, bad: float = np.inf, stop: int = 0) -> None:
        super().__init__()
        self.bad, self.stop, self.seen = bad, stop, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        if self.seen == self.stop:
            raise KeyboardInterrupt
        if (x == self.bad).any():
            raise RuntimeError("no luck\nwith it")
        return (x > 0).float()


def save(path: Path, bright: int = 7, seed: int = 0) -> Path:
    """A volume of ``(6, 5, 4)`` voxels of 1 mm³ with ``bright`` voxels above 0."""
    values = -1 - np.random.default_rng(seed).random((6, 5, 4), np.float32)
    values.flat[:bright] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five cases, one in a subfolder, and a checkpoint."""
    for index, name in enumerate(("a", "b", "c", "d", "sub/e")):
        save(tmp_path / "in" / f"{name}.nii.gz", bright=index + 1)
    (tmp_path / "model.pt").write_bytes(b"weights")
    return tmp_path


def make(folder: Path, **options: Any) -> Cohort:
    tables = {"volumes_ml": write_volumes}
    return Cohort(folder / "in", folder / "out", folder / "model.pt", tables=tables, **options)


def run(folder: Path, network: torch.nn.Module | None = None, before: Any = None, **options: Any) -> Threshold:
    """Run what a bundle's config says; ``before`` is a transform of the image."""
    this, network = make(folder, **options), network or Threshold()
    load = [LoadImaged("image", reader=SimpleITKReader()), EnsureChannelFirstd("image")]
    preprocessing = Compose([*load, *([Lambdad("image", before)] if before else [])])
    writer = SaveImaged(
        "pred",
        output_dir=this.staging_dir,
        output_postfix="seg",
        separate_folder=False,
        data_root_dir=this.root,
        print_log=False,
    )
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(CaseDataset(this.share, preprocessing), batch_size=1),
        network=network,
        inferer=SimpleInferer(),
        postprocessing=Compose([writer, StructureVolumesd("pred", STRUCTURES)]),
        iteration_update=this.iteration,
    )
    this.run(evaluator)
    return network


def volumes(folder: Path) -> dict[str, float]:
    return {row["case"]: row["total_ml"] for row in json.loads((folder / "out" / "volumes.json").read_text())}


def times(folder: Path) -> dict[str, int]:
    """When each output of a case was made; a move keeps it."""
    return {str(file): file.stat().st_mtime_ns for file in (folder / "out").rglob("*_seg.nii.gz")}


ALL = {"a": 0.001, "b": 0.002, "c": 0.003, "d": 0.004, "sub/e": 0.005}


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
    assert "5 of 5 inputs segmented." in (folder / "out" / "index.html").read_text()


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
        (broken_network, "could not be segmented (RuntimeError: no luck with it); records/c.json has the traceback."),
        (broken_place, "could not be segmented (IsADirectoryError: "),
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
    assert "4 of 5 inputs segmented. 1 refused." in page and reason.split("(")[0] in page
    assert not (folder / "out" / ".partial").exists()


def test_a_name_in_another_encoding(folder: Path) -> None:
    try:
        save(folder / "in" / "c.nii.gz").rename(os.fsdecode(bytes(folder / "in") + b"/\xe9.nii.gz"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    run(folder)
    assert '"%E9_seg.nii.gz"' in (folder / "out" / "index.html").read_text() and len(volumes(folder)) == 5


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


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_case_has_one_process(folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for index in range(count):
        monkeypatch.setattr(cohort, "world_size", lambda: count)
        monkeypatch.setattr(cohort, "rank", lambda index=index: index)
        shares.append([case["case"] for case in make(folder).share])
    assert sorted(itertools.chain(*shares)) == list(ALL) and max(map(len, shares)) - min(map(len, shares)) <= 1


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


def test_alone_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes.join_processes()
    assert (processes.rank(), processes.world_size()) == (0, 1)


@pytest.mark.parametrize(("gpus", "rank", "device"), [(0, "3", "cpu"), (1, "3", "cuda:0"), (2, "1", "cuda:1")])
def test_processes_share_the_gpus(gpus: int, rank: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert str(processes.local_device()) == device
