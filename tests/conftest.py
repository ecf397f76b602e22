from __future__ import annotations

import pytest
import torch

from monai_crossd.ops.fused.availability import available


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same random numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture
def ieee(monkeypatch):
    """Products of float32 as exact as they can be, on a GPU too."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def products_of_bfloat16(monkeypatch):
    """Triton's interpreter keeps bfloat16 as 16-bit integers and multiplies those; here it widens them first."""
    if not available(torch.empty(0)):  # on a CPU, where nothing but the interpreter runs kernels
        return
    from triton.language import bfloat16, float32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def widened(handle):
        if handle.dtype != bfloat16:
            return handle
        return TensorHandle((handle.data.astype("uint32") << 16).view("float32"), float32)

    dot = InterpreterBuilder.create_dot
    monkeypatch.setattr(
        InterpreterBuilder, "create_dot", lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
    )
