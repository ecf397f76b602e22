from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same random numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture
def ieee(monkeypatch):
    """Products of float32 as exact as they can be, on a GPU too."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
