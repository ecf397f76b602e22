"""A cohort of small volumes through a network that needs no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.transforms import Compose, EnsureChannelFirstd, Lambdad, LoadImaged, SaveImaged

from monai_crossd.cohort import CaseDataset, Cohort
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


def make(folder: Path, **options: Any) -> Cohort:
    options = {"tables": {"volumes_ml": write_volumes}} | options
    return Cohort(folder / "in", folder / "out", folder / "model.pt", **options)


def run(folder: Path, network: torch.nn.Module | None = None, before: Any = None, **options: Any) -> Threshold:
    """Run what a bundle's config says; ``before`` is a transform of the image."""
    this, network = make(folder, **options), network or Threshold()
    writer = SaveImaged(
        "pred",
        output_dir=this.staging_dir,
        output_postfix="seg",
        separate_folder=False,
        data_root_dir=this.root,
        print_log=False,
    )
    evaluate(this, network, [writer, StructureVolumesd("pred", STRUCTURES)], before)
    return network


def evaluate(this: Cohort, network: torch.nn.Module, postprocessing: list[Any], before: Any = None) -> None:
    """Run a cohort through MONAI's evaluator."""
    load = [LoadImaged("image", reader=SimpleITKReader()), EnsureChannelFirstd("image")]
    preprocessing = Compose([*load, *([Lambdad("image", before)] if before else [])])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(CaseDataset(this.share, preprocessing), batch_size=1),
        network=network,
        inferer=SimpleInferer(),
        postprocessing=Compose(postprocessing),
        iteration_update=this.iteration,
    )
    this.run(evaluator)


def volumes(folder: Path) -> dict[str, float]:
    return {row["case"]: row["total_ml"] for row in json.loads((folder / "out" / "volumes.json").read_text())}


def times(folder: Path) -> dict[str, int]:
    """When each output of a case was made; a move keeps it."""
    return {str(file): file.stat().st_mtime_ns for file in (folder / "out").rglob("*_seg.nii.gz")}


ALL = {"a": 0.001, "b": 0.002, "c": 0.003, "d": 0.004, "sub/e": 0.005}
