"""Where Triton's kernels run."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

__all__ = ["INTERPRETED", "available"]

_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def available(x: Tensor) -> bool:
    """Whether the kernels run on ``x``: Triton is installed and ``x`` on a GPU, or Triton's interpreter is on."""
    return _TRITON and (INTERPRETED or (x.is_cuda and _fits(x.device)))


@cache
def _fits(device: torch.device) -> bool:
    """Whether Triton compiles for a GPU, and has what the kernels ask for: since NVIDIA's Ampere."""
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
