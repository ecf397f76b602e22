"""Every config of the hippocampus bundle, run as users run it, on small made volumes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import broken_files
import broken_series
import bundle_runs
import dicom_files
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from matplotlib.image import imread
from pydicom.sr.codedict import codes

from monai_crossd import CrossDUNet, load_checkpoint

BUNDLE = Path(__file__).parents[2] / "bundles" / "hippocampus_mr_segmentation"
CONFIGS = BUNDLE / "configs"
WEIGHTS = BUNDLE / "models" / "model.pt"
FILTERS_OF_WEIGHTS = json.loads((CONFIGS / "inference.json").read_text())["network_def"]["filters"]


config, run = partial(bundle_runs.config, BUNDLE), partial(bundle_runs.run, BUNDLE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """In the layout of the Medical Segmentation Decathlon."""
    return bundle_runs.write_dataset(
        tmp_path_factory.mktemp("dataset"), "imagesTr/case_{}.nii.gz", "labelsTr/case_{}.nii.gz"
    )


def small(dataset: Path, out: Path, *names: str) -> list[str]:
    """Overrides that make training a matter of seconds."""
    arguments = ["--config_file", config(*names), "--logging_file", str(CONFIGS / "logging.conf")]
    arguments += ["--dataset_dir", str(dataset), "--ckpt_dir", str(out / "models"), "--output_dir", str(out / "runs")]
    arguments += ["--num_workers", "0", "--batch_size", "2", "--roi_size", "[16,24,16]", "--val_interval", "1"]
    return [*arguments, "--epochs", "1"]


FILTERS = ["--network_def#filters", "[4,8,8,8]"]


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run(*small(dataset, out, "train"), *FILTERS)
    return out


def test_training_saves_the_best_model_and_a_state_to_resume(trained, dataset):
    report = load_checkpoint(CrossDUNet(1, 3, (4, 8, 8, 8)), trained / "models" / "model.pt")
    assert report.complete
    assert any("tfevents" in file.name for file in (trained / "runs").iterdir())
    state = trained / "runs" / "checkpoint_epoch=1.pt"
    done = run(*small(dataset, trained, "train"), *FILTERS, "--resume", str(state), "--epochs", "2")
    assert "Epoch[2] Complete" in done.stdout and "Epoch[1] Complete" not in done.stdout.split("Restored")[1]


def test_evaluation_writes_metrics_per_case(trained, dataset, tmp_path):
    checkpoint = str(trained / "models" / "model.pt")
    arguments = small(dataset, trained, "train", "evaluate") + FILTERS
    run(*arguments, "--checkpoint", checkpoint, "--output_dir", str(tmp_path), "--val_cases", "$@cases[:3]")
    for metric in ("mean_dice", "hausdorff95_mm", "surface_dice_1mm"):
        rows = list(csv.DictReader((tmp_path / f"val_{metric}_raw.csv").read_text().splitlines()))
        assert [row["filename"] for row in rows] == [f"case_{i}.nii.gz" for i in range(3)]
        assert {"class0", "class1", "mean"} <= rows[0].keys()


def test_finetuning_starts_from_the_trained_weights(trained, dataset, tmp_path):
    weights = trained / "models" / "model.pt"
    arguments = small(dataset, tmp_path, "train", "finetune") + FILTERS
    run(*arguments, "--checkpoint", str(weights), "--learning_rate", "0.0", "--optimizer#weight_decay", "0.0")
    before, after = (torch.load(file, weights_only=True) for file in (weights, tmp_path / "models" / "model.pt"))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("baseline", ["segresnet", "dynunet"])
@pytest.mark.slow
def test_baselines_train_by_the_same_script(baseline, dataset, tmp_path):
    small_net = {"segresnet": ["--network_def#init_filters", "8"], "dynunet": FILTERS}[baseline]
    run(*small(dataset, tmp_path, "train", f"baseline_{baseline}"), *small_net)
    assert (tmp_path / "models" / "model.pt").is_file()


def test_training_runs_on_two_processes(dataset, tmp_path):
    arguments = small(dataset, tmp_path, "train", "multi_gpu_train") + FILTERS
    run(*arguments, "--val_cases", "$@cases[:3]", torchrun=2)
    assert load_checkpoint(CrossDUNet(1, 3, (4, 8, 8, 8)), tmp_path / "models" / "model.pt").complete


def infer(dataset_dir: str, out: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    inputs = ["--dataset_dir", dataset_dir, "--output_dir", str(out)]
    return run("--config_file", config("inference"), *inputs, *arguments, **options)


def test_inference_writes_on_the_grid_of_the_input(tmp_path, tmp_path_factory, monkeypatch):
    """NIfTI needs no highdicom."""
    absent = tmp_path_factory.mktemp("absent")
    (absent / "highdicom.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(absent), prepend=os.pathsep)
    infer(str(BUNDLE / "sample"), tmp_path)
    for name in ("icbm152_left", "icbm152_right"):
        image = nib.load(BUNDLE / "sample" / f"{name}.nii.gz")
        label = nib.load(tmp_path / f"{name}_seg.nii.gz")
        assert label.shape == image.shape
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)
        assert set(np.unique(label.dataobj)) == {0, 1, 2}
        assert (tmp_path / f"{name}_preview.png").stat().st_size > 10_000
    rows = json.loads((tmp_path / "volumes.json").read_text())
    for row in rows:
        assert 2.5 < row["total_ml"] < 6.5, "the size of a hippocampus"


def test_orientation_and_spacing_do_not_matter(tmp_path):
    """The same anatomy stored in other axes gives the same labels, at another spacing nearly the same volumes."""
    source = nib.load(BUNDLE / "sample" / "icbm152_left.nii.gz")
    flipped = source.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    stretched = source.affine @ np.diag([1, 1, 2, 1])
    pairs = np.asarray(source.dataobj, np.float32).reshape(*source.shape[:2], -1, 2).mean(-1)
    stretched[:3, 3] += source.affine[:3, 2] / 2
    (tmp_path / "in").mkdir()
    nib.save(flipped, tmp_path / "in" / "flipped.nii.gz")
    nib.save(nib.Nifti1Image(pairs, stretched), tmp_path / "in" / "thick.nii.gz")
    nib.save(source, tmp_path / "in" / "plain.nii.gz")
    infer(str(tmp_path / "in"), tmp_path / "out")
    plain, turned = (nib.load(tmp_path / "out" / f"{name}_seg.nii.gz") for name in ("plain", "flipped"))
    turned_back = nib.as_closest_canonical(turned).get_fdata()
    assert (turned_back == nib.as_closest_canonical(plain).get_fdata()).mean() > 0.999
    total = {row["case"]: row["total_ml"] for row in json.loads((tmp_path / "out" / "volumes.json").read_text())}
    assert abs(total["thick"] - total["plain"]) < 0.15 * total["plain"]


def test_dicom_and_nifti_in_one_folder(tmp_path):
    """The sample as a DICOM series beside itself: the same labels, on the same grid."""
    source = nib.load(BUNDLE / "sample" / "icbm152_left.nii.gz")
    lps = np.diag([-1.0, -1.0, 1.0]) @ source.affine[:3]
    with pytest.MonkeyPatch.context() as patch:
        stored = np.asarray(source.dataobj).astype(np.uint16) + 1000  # the made series has an intercept of -1000
        axes = {"ROW": lps[:, 0], "COLUMN": lps[:, 1], "NORMAL": lps[:, 2], "ORIGIN": lps[:, 3]}
        for name, value in (axes | {"SPACING": np.ones(3), "SHAPE": source.shape}).items():
            patch.setattr(dicom_files, name, value)
        patch.setattr(dicom_files, "voxels", lambda seed: stored)
        dicom_files.write_series(
            tmp_path / "in" / "patient 1" / "mr", lambda slice_, _: setattr(slice_, "Modality", "MR")
        )
        dicom_files.write_series(tmp_path / "in" / "gap", lambda slice_, index: slice_.__setattr__("Rows", 7 + index))
    nib.save(source, tmp_path / "in" / "plain.nii.gz")
    done = infer(str(tmp_path / "in"), tmp_path / "out", check=False)
    assert done.returncode == 1 and "Refused 1 of 3 inputs:" in done.stderr, done.stderr
    ours, theirs = (nib.load(tmp_path / "out" / f"{name}_seg.nii.gz") for name in ("patient 1/mr", "plain"))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    np.testing.assert_array_equal(ours.dataobj, theirs.dataobj)
    assert (tmp_path / "out" / "patient 1" / "mr_preview.png").is_file()
    (file,) = (tmp_path / "out").rglob("*.dcm")  # none for NIfTI
    assert file == tmp_path / "out" / "patient 1" / "mr_seg.dcm"
    assert_is_segmentation(pydicom.dcmread(file), np.asarray(ours.dataobj), lps[:, 2])


def assert_is_segmentation(data: pydicom.Dataset, labels: np.ndarray, normal: np.ndarray) -> None:
    """Labels ``(columns, rows, slices)``, slices in the direction of ``normal``."""
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    frames = data.pixel_array.reshape(2, labels.shape[2], *data.pixel_array.shape[1:])  # structures, slices
    planes = [frame.PlanePositionSequence[0] for frame in data.PerFrameFunctionalGroupsSequence]
    heights = np.array([plane.ImagePositionPatient for plane in planes], float) @ normal
    for part, name, value in zip(data.SegmentSequence, ("Anterior", "Posterior"), (1, 2), strict=True):
        assert part.SegmentLabel == f"{name.lower()} hippocampus"
        assert part.SegmentAlgorithmName == metadata["name"]
        assert part.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == metadata["version"]
        (kind,) = part.SegmentedPropertyTypeCodeSequence
        (modifier,) = kind.SegmentedPropertyTypeModifierCodeSequence
        for found, code in ((kind, codes.SCT.Hippocampus), (modifier, getattr(codes.SCT, name))):
            assert (found.CodeValue, found.CodingSchemeDesignator, found.CodeMeaning) == code[:3]
        order = np.argsort(heights[: labels.shape[2]])
        np.testing.assert_array_equal(frames[value - 1][order], (labels == value).T)


def test_bad_volumes_do_not_stop_good_ones(tmp_path):
    """A good volume among every kind of broken one that a search of the folder finds."""
    bad = [kind for kinds in (broken_files.KINDS, broken_series.KINDS) for kind in kinds.values() if kind.found]
    for number, kind in enumerate(bad):
        kind.make(tmp_path / "in" / str(number))
    (tmp_path / "in" / "good.nii.gz").write_bytes((BUNDLE / "sample" / "icbm152_left.nii.gz").read_bytes())
    done = infer(str(tmp_path / "in"), tmp_path / "out", check=False)
    assert done.returncode == 1
    summary = done.stderr[done.stderr.index(f"Refused {len(bad)} of {len(bad) + 1} inputs:") :]
    assert len(summary.strip().splitlines()) == len(bad) + 1 and "Traceback" not in done.stderr
    written = {"good_seg.nii.gz", "good_preview.png", "volumes.csv", "volumes.json", "index.html"}
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert {file for file in files if not file.startswith("records/")} == written


@pytest.fixture(scope="module")
def light(tmp_path_factory) -> list[str]:
    """Overrides for where it does not matter what the network finds."""
    file = tmp_path_factory.mktemp("light") / "model.pt"
    torch.save(CrossDUNet(1, 3, (4, 8, 8, 8)).state_dict(), file)
    return [*FILTERS, "--checkpoint", str(file)]


def samples(folder: Path, names: str) -> Path:
    """One sample under many names."""
    folder.mkdir()
    for name in names:
        (folder / f"{name}.nii.gz").write_bytes((BUNDLE / "sample" / "icbm152_left.nii.gz").read_bytes())
    return folder


def changed(folder: Path) -> dict[str, int]:
    """When the outputs of each case were made."""
    return {
        file.name: file.stat().st_mtime_ns
        for ending in ("seg.nii.gz", "preview.png")
        for file in folder.glob(f"*_{ending}")
    }


def test_a_killed_run_is_taken_up(light, tmp_path):
    """Killed after the first cases: whatever is in place is whole, stays as it is, and the others follow."""
    folder, out = samples(tmp_path / "in", "abcde"), tmp_path / "out"
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(BUNDLE), "--config_file"]
    command += [config("inference"), "--dataset_dir", str(folder), "--output_dir", str(out), *light]
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        while process.poll() is None and not (out / "records" / "b.json").exists():
            time.sleep(0.01)
        time.sleep(0.3)  # into the next case
        process.kill()
    whole = changed(out)
    assert 4 <= len(whole) < 10
    for file in whole:
        nib.load(out / file).get_fdata() if file.endswith(".gz") else imread(out / file)
    done = infer(str(folder), out, *light)
    assert "Cases: 100%" in done.stderr and "5/5" in done.stderr
    records = {file.stem: json.loads(file.read_text()) for file in (out / "records").glob("*.json")}
    assert sorted(records) == list("abcde") and {record["state"] for record in records.values()} == {"done"}
    after = changed(out)
    assert whole.items() < after.items() and len(after) == 10
    assert not (out / ".partial").exists() and not list(out.rglob("*.partial"))
    assert len(json.loads((out / "volumes.json").read_text())) == 5
    assert (out / "index.html").read_text().count("<img") == 5


def test_two_processes_share_the_cases(light, tmp_path):
    """Five cases, the one in the middle bad: none lost, none done twice, one table over all."""
    folder, out = samples(tmp_path / "in", "abcde"), tmp_path / "out"
    (folder / "c.nii.gz").write_bytes((folder / "c.nii.gz").read_bytes()[:5000])
    note = f"open('{tmp_path}/' + os.environ['RANK'], 'a').write(image.meta['filename_or_obj'][-len('a.nii.gz')])"
    transforms = [*json.loads((CONFIGS / "inference.json").read_text())["preprocessing"]["transforms"]]
    transforms += [
        {"_target_": "Lambdad", "keys": "image", "func": f"$lambda image: {note} and image", "track_meta": False}
    ]
    (tmp_path / "noted.json").write_text(
        json.dumps({"preprocessing#transforms": transforms, "+imports": ["$import os"]})
    )
    files = f"['{CONFIGS / 'inference.json'}', '{tmp_path / 'noted.json'}']"
    done = infer(str(folder), out, *light, "--config_file", files, torchrun=2, check=False)
    assert done.returncode == 1 and done.stderr.count("Refused 1 of 5 inputs:") == 1, done.stderr
    assert ((tmp_path / "0").read_text(), (tmp_path / "1").read_text()) == ("ae", "bd")
    assert [row["case"] for row in json.loads((out / "volumes.json").read_text())] == list("abde")
    page = (out / "index.html").read_text()
    assert "4 of 5 inputs done. 1 refused." in page and "c.nii.gz" in page and page.count("<img") == 4
    assert len(changed(out)) == 8 and not (out / ".partial").exists()


def test_a_process_without_a_case(light, tmp_path):
    folder = samples(tmp_path / "in", "a")
    infer(str(folder), tmp_path / "out", *light, torchrun=2)
    assert len(json.loads((tmp_path / "out" / "volumes.json").read_text())) == 1


def test_another_checkpoint_is_another_result(light, tmp_path):
    folder, out, weights = samples(tmp_path / "in", "a"), tmp_path / "out", tmp_path / "zero.pt"
    infer(str(folder), out, *light)
    state = torch.load(light[-1], weights_only=True)
    torch.save({key: torch.zeros_like(value) for key, value in state.items()}, weights)
    infer(str(folder), out, *light, "--checkpoint", str(weights))
    assert [row["total_ml"] for row in json.loads((out / "volumes.json").read_text())] == [0.0]
    assert not nib.load(out / "a_seg.nii.gz").get_fdata().any()


@pytest.mark.parametrize("where", ["missing.nii.gz", "empty"])
def test_nothing_to_segment_is_one_sentence(where, tmp_path):
    (tmp_path / "empty").mkdir()
    done = infer(str(tmp_path / where), tmp_path / "out", check=False)
    assert done.returncode == 1 and "Refused 1 of 1 inputs:" in done.stderr and "Traceback" not in done.stderr
