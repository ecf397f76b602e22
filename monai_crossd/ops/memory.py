"""Memory of temporary tensors."""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor

__all__ = ["scratch"]

_KEPT = 64 << 20  #: bytes, at most, that are kept for each name, per thread and dtype
_memory = threading.local()


def scratch(name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A temporary tensor of a part, on a CPU in memory of this thread that is used again: to get as much anew from the
    system takes longer than what is done with it.
    """
    numbers = math.prod(shape)
    if type(like) is not Tensor or like.device.type != "cpu" or numbers * like.itemsize > _KEPT:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    known: dict[Any, Tensor] = _memory.__dict__
    key = (name, like.dtype)
    if key not in known or known[key].numel() < numbers:
        known.pop(key, None)
        with torch.inference_mode(False):
            known[key] = torch.empty(numbers, dtype=like.dtype, device=like.device)
    return known[key][:numbers].view(shape)
