"""Products of matrices by torch's library, written where they are asked for; ``replay.call`` repeats them."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["WIDENS", "add_product", "product"]

WIDENS = hasattr(torch.ops.aten.mm, "dtype_out")  # torch multiplies 16 bits into 32, since 2.8


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """``out = a b``, added up in float32.

    Args:
        a: ``(M, K)``, float32, float16 or bfloat16.
        b: ``(K, N)``, the same.
        out: ``(M, N)``, of the same dtype or float32, written.
    """
    with _no_autocast(a):
        if a.dtype == torch.float32:
            out.copy_(_as_convolution(a, b))
        elif a.dtype == out.dtype:
            torch.mm(a, b, out=out)
        elif _widens(a):
            torch.mm(a, b, out_dtype=torch.float32, out=out)
        else:
            torch.mm(a.float(), b.float(), out=out)


def add_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """``out += a b``, ``out`` in float32, and the rest as of :func:`product`."""
    with _no_autocast(a):
        if a.dtype == torch.float32:
            out.add_(_as_convolution(a, b))
        elif _widens(a):
            torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
        else:
            out.addmm_(a.float(), b.float())


def _as_convolution(a: Tensor, b: Tensor) -> Tensor:
    """``a b`` of float32 as a 1x1 convolution, whose arithmetic is what ``torch.backends.cudnn`` allows."""
    if not a.is_cuda:
        return a @ b
    y = F.conv2d(a.t()[None, :, :, None], b.t()[:, :, None, None])  # (1, N, M, 1)
    return y[0, :, :, 0].t()


def _widens(a: Tensor) -> bool:
    return WIDENS and a.is_cuda and not torch.backends.cuda.matmul.allow_fp16_accumulation


def _no_autocast(a: Tensor) -> contextlib.AbstractContextManager[object]:
    kind = a.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()
