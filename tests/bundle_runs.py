"""A bundle's configs, run as users run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np


def config(bundle: Path, *names: str) -> str:
    return "[" + ", ".join(f"'{bundle / 'configs' / name}.json'" for name in names) + "]"


def run(bundle: Path, *arguments: str, torchrun: int = 0, check: bool = True) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={torchrun}"] if torchrun else []
    command = [sys.executable, *launch, "-m", "monai.bundle", "run", "--bundle_root", str(bundle), *arguments]
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def write_dataset(root: Path, image: str, label: str, classes: int = 2) -> Path:
    """Five noisy volumes with a bright box of two halves, each a class or both one; ``{}`` in a name is a number."""
    rng = np.random.default_rng(0)
    for name in (image, label):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    for i in range(5):
        labels = np.zeros((20, 24, 18), np.uint8)
        labels[6:14, 8:14, 5:12], labels[6:14, 14:19, 5:12] = 1, classes
        values = rng.normal(labels * 100, 20).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), root / image.format(i))
        nib.save(nib.Nifti1Image(labels, np.eye(4)), root / label.format(i))
    return root
