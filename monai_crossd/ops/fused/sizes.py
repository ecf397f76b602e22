"""Sizes of blocks and of parts of a batch, and the arithmetic that float32 is multiplied in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["block", "cdiv", "cut", "parts", "precision"]

# of what `torch.backends.cudnn.conv` asks, in an eighth of the time; torch >= 2.9, where the older flag sets it too
_setting = getattr(torch._C, "_get_fp32_precision_getter", None)


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: next to 16-bit data in TF32, which is no coarser; else as cuDNN is allowed to."""
    if dtype != torch.float32:
        return "tf32"
    allowed = torch.backends.cudnn.allow_tf32 if _setting is None else _setting("cuda", "conv") == "tf32"
    return "tf32" if allowed else "ieee"


def block(most: int, size: int) -> int:
    """The power of two that covers ``size``, from 16, the least of a matrix product, to ``most``."""
    return max(16, min(most, 1 << (size - 1).bit_length()))


def cdiv(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def parts(images: int, each: int, budget: int) -> Iterator[slice]:
    """Parts of a batch of about the same size, which hold about ``budget`` numbers at most, or one image.

    None has more images than a grid's second axis has programs.
    """
    most = min(max(1, budget // each), 65535)
    size = cdiv(images, cdiv(images, most)) if images else 1
    return (slice(first, first + size) for first in range(0, images, size))


def cut(t: Tensor | None, part: slice) -> Tensor | None:
    """A part of a tensor, where there is one."""
    return None if t is None else t[part]
