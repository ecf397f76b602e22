"""Images in the dtype of autocast, cast by the kernel that reads them first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...per_image import is_transformed
from ..availability import DTYPES
from ..predictor.launch import PLANES

__all__ = ["cast_images"]


def cast_images(x: Tensor, padded: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Both in another dtype; and what the predictor's first kernel casts ``x`` from, where that is left to it.

    To cast large images takes as long as the predictor's pass over them, which reads them anyway. What is left to it
    has no values yet. Few channels are cast before: there the pass takes a pixel a thread, and writes them slowly.

    Args:
        x: ``(B, C, H, W)``, such as ``runs_fused`` takes.
        padded: what is convolved instead, if anything.
        dtype: of autocast.
    """
    padded = None if padded is None else padded.to(dtype)
    if x.dtype == dtype:
        return x, padded, None
    if not _can_wait(x, dtype):
        return x.to(dtype), padded, None
    cast = _Cast.apply(x, dtype) if torch.is_grad_enabled() and x.requires_grad else _without_values(x, dtype)
    return cast, padded, x.detach()


def _can_wait(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernels take the dtype, and images that are written as they are read."""
    if type(x) is not Tensor or torch.compiler.is_compiling() or is_transformed() or dtype not in DTYPES:
        return False
    return x.shape[1] > PLANES and x.stride(1) == 1 and x.is_contiguous(memory_format=torch.channels_last)


def _without_values(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


class _Cast(torch.autograd.Function):
    """The cast as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        ctx.dtype = x.dtype
        return _without_values(x, dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return dy.to(ctx.dtype), None
