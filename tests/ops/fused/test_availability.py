"""Which GPUs the kernels are for; and without Triton all imports the same."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from monai_crossd.ops.fused import availability


@pytest.mark.parametrize("capability, fits", [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_ampere_and_newer(capability, fits, monkeypatch):
    monkeypatch.setattr(availability, "_known", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert availability._fits(torch.device("cuda", 0)) == fits


def test_no_kernels_for_amd(monkeypatch):
    monkeypatch.setattr(availability, "_known", {})
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert not availability._fits(torch.device("cuda", 0))


def test_imports_without_triton():
    code = "import sys, torch; sys.modules['triton'] = None\n"
    code += "from monai_crossd.ops.fused.layer import function\n"
    code += "from monai_crossd.ops.fused.availability import available; assert not available(torch.zeros(1))"
    subprocess.run([sys.executable, "-c", code], check=True)
