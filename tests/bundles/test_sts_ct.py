"""What the CT bundle does beside the other one: suffixes, distances in mm, DICOM in HU, DICOM-SEG of a tumor."""

from __future__ import annotations

import csv
import os
from functools import partial
from pathlib import Path

import bundle_runs
import dicom_files
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from monai_crossd import CrossDUNet, load_checkpoint

BUNDLE = Path(__file__).parents[2] / "bundles" / "sts_ct_tumor_segmentation"
SHARED = Path(__file__).parents[3] / "shared" / "data"
config, run = partial(bundle_runs.config, BUNDLE), partial(bundle_runs.run, BUNDLE)
FILTERS = ["--network_def#filters", "[4,8,8,8,8]"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return bundle_runs.write_dataset(
        tmp_path_factory.mktemp("dataset"), "case_{}_ct.nii.gz", "case_{}_mask.nii.gz", classes=1
    )


def small(dataset: Path, out: Path, *names: str) -> list[str]:
    arguments = ["--config_file", config(*names), "--dataset_dir", str(dataset), "--ckpt_dir", str(out / "models")]
    arguments += ["--output_dir", str(out / "runs"), "--num_workers", "0", "--roi_size", "[32,32,32]"]
    return [*arguments, "--val_interval", "1", "--epochs", "1", *FILTERS]


def test_training_and_evaluation(dataset, tmp_path):
    run(*small(dataset, tmp_path, "train"))
    weights = tmp_path / "models" / "model.pt"
    assert load_checkpoint(CrossDUNet(1, 2, (4, 8, 8, 8, 8)), weights).complete
    run(*small(dataset, tmp_path, "train", "evaluate"), "--checkpoint", str(weights))
    for metric in ("mean_dice", "hausdorff95_mm", "surface_dice_2mm"):
        rows = list(csv.DictReader((tmp_path / "runs" / f"val_{metric}_raw.csv").read_text().splitlines()))
        assert [row["filename"] for row in rows] == ["case_0_ct.nii.gz"]


@pytest.mark.slow
def test_finetuning_baseline_and_two_processes(dataset, tmp_path):
    torch.save(CrossDUNet(1, 2, (4, 8, 8, 8, 8)).state_dict(), tmp_path / "small.pt")
    run(*small(dataset, tmp_path / "a", "train", "finetune"), "--checkpoint", str(tmp_path / "small.pt"))
    baseline = [part for part in small(dataset, tmp_path / "b", "train", "baseline_segresnet") if part not in FILTERS]
    run(*baseline, "--network_def#init_filters", "8")
    cases = ["--val_cases", "$@cases[:3]"]
    run(*small(dataset, tmp_path / "c", "train", "multi_gpu_train"), *cases, torchrun=2)
    assert all((tmp_path / name / "models" / "model.pt").is_file() for name in "abc")


def test_nifti_and_dicom_in_one_folder_and_no_mr(tmp_path):
    """The series gives label map, DICOM-SEG and picture; a series of another modality is refused by name."""
    torch.save(CrossDUNet(1, 2, (4, 8, 8, 8, 8)).state_dict(), tmp_path / "small.pt")
    folder, out = tmp_path / "in", tmp_path / "out"
    dicom_files.write_series(folder / "series")
    dicom_files.write_series(folder / "mr", lambda slice_, _: setattr(slice_, "Modality", "MR"), seed=1)
    values = np.random.default_rng(0).normal(0, 50, (20, 24, 18)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 3, 1])), folder / "nifti.nii.gz")
    done = run(
        *["--config_file", config("inference"), "--dataset_dir", str(folder), "--output_dir", str(out)],
        *["--checkpoint", str(tmp_path / "small.pt"), "--roi_size", "[32,32,32]", *FILTERS],
        check=False,
    )
    assert done.returncode == 1 and "must be of modality CT, got MR" in done.stderr
    assert (
        f"2 of 3 inputs done. 1 refused. All on one page: {out / 'index.html'}. Not for diagnostic use." in done.stdout
    )
    assert nib.load(out / "nifti_seg.nii.gz").shape == values.shape
    assert nib.load(out / "series_seg.nii.gz").shape == dicom_files.SHAPE
    segmentation = pydicom.dcmread(out / "series_seg.dcm")
    assert segmentation.NumberOfFrames == dicom_files.SHAPE[2]
    assert segmentation.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm, Primary"
    with (out / "volumes.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["nifti", "series"]


def test_dicom_without_highdicom_ends_at_once(tmp_path, monkeypatch):
    """One sentence before any work; `dicom_seg` False goes without."""
    torch.save(CrossDUNet(1, 2, (4, 8, 8, 8, 8)).state_dict(), tmp_path / "small.pt")
    dicom_files.write_series(tmp_path / "in")
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "highdicom.py").write_text("raise ImportError('no highdicom')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"), prepend=os.pathsep)
    arguments = ["--config_file", config("inference"), "--dataset_dir", str(tmp_path / "in")]
    arguments += ["--output_dir", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "small.pt"), *FILTERS]
    done = run(*arguments, "--roi_size", "[32,32,32]", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    assert done.stderr.splitlines()[-1] == (
        "highdicom is needed to write the results of DICOM series as DICOM-SEG, but cannot be imported (no highdicom); "
        'install it by `pip install "monai_crossd[dicom-seg]"`, or go without by `dicom_seg` False.'
    )
    run(*arguments, "--roi_size", "[32,32,32]", "--dicom_seg", "false")
    assert (tmp_path / "out" / "in_seg.nii.gz").is_file() and not list(tmp_path.rglob("*_seg.dcm"))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_a_real_series_gives_what_its_nifti_gives(tmp_path):
    """The smaller patient as DICOM and as NIfTI: the same tumor, and it is where the mask is."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "dicom").symlink_to(SHARED / "dicom" / "STS_002_CT" / "image")
    (folder / "nifti.nii.gz").symlink_to(SHARED / "sts_ct" / "STS_002_ct.nii.gz")
    run("--config_file", config("inference"), "--dataset_dir", str(folder), "--output_dir", str(tmp_path / "out"))
    series, volume = (nib.load(tmp_path / "out" / f"{name}_seg.nii.gz") for name in ("dicom", "nifti"))
    mask = np.asarray(nib.load(SHARED / "sts_ct" / "STS_002_mask.nii.gz").dataobj)
    found = np.asarray(volume.dataobj)
    assert 2 * (found * mask).sum() / (found.sum() + mask.sum()) > 0.7  # a training case
    to_nifti = nib.orientations.ornt_transform(nib.io_orientation(series.affine), nib.io_orientation(volume.affine))
    assert (np.asarray(series.as_reoriented(to_nifti).dataobj) == found).mean() > 0.9999
