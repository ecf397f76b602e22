"""Where Triton's kernels run."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

__all__ = ["DTYPES", "INTERPRETED", "available"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # that the kernels take
_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")
_known: dict[torch.device, bool] = {}


def available(x: Tensor) -> bool:
    """Whether the kernels run on ``x``: Triton is installed and ``x`` on a GPU, or Triton's interpreter is on."""
    return _TRITON and (INTERPRETED or (x.is_cuda and _fits(x.device)))


def _fits(device: torch.device) -> bool:
    """Whether Triton compiles for a GPU, and has what the kernels ask for: since NVIDIA's Ampere."""
    if device not in _known:  # a dictionary, since torch.compile warns of functools.cache
        _known[device] = torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    return _known[device]


# asked once for a graph, not traced: what `torch.compiler.assume_constant_result` does, which imports all of Dynamo
vars(_fits)["_dynamo_marked_constant"] = True
