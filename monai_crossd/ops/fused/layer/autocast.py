"""Images in the dtype of autocast, cast by the kernel that reads them first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..availability import DTYPES, available

__all__ = ["cast_images", "is_transformed"]


def cast_images(x: Tensor, padded: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Images in another dtype; and what the predictor's first kernel casts them from, where they are left to it.

    To cast large images takes as long as the predictor's pass over them, which reads them anyway. What is left to it
    has no values yet.

    Args:
        x: ``(B, C, H, W)``.
        padded: what is convolved instead, if anything; it needs values of its own.
        dtype: of autocast.
    """
    if x.dtype == dtype and (padded is None or padded.dtype == dtype):
        return x, padded, None
    if padded is not None or not _can_wait(x, dtype):
        return x.to(dtype), None if padded is None else padded.to(dtype), None
    if torch.is_grad_enabled() and x.requires_grad:
        return _Cast.apply(x, dtype), None, x.detach()
    return torch.empty_like(x, dtype=dtype), None, x.detach()


def _can_wait(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernels take both dtypes, and images that are read as they are written."""
    last = x.stride(1) == 1 and x.is_contiguous(memory_format=torch.channels_last) and x.numel() > 0
    plain = type(x) is Tensor and not torch.compiler.is_compiling() and not is_transformed()
    return plain and last and x.dtype in DTYPES and dtype in DTYPES and available(x)


def is_transformed() -> bool:
    """Whether forward derivatives or ``vmap`` are asked for."""
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


class _Cast(torch.autograd.Function):
    """The cast as autograd sees it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:  # type: ignore[override]
        ctx.dtype = x.dtype
        return torch.empty_like(x, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return dy.to(ctx.dtype), None
