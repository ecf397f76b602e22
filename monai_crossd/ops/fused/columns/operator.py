"""Convolution by mixed columns from the predictor's four numbers, as a custom op: what graphs have of ``columns``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...per_image import output_size
from ..conv.operator import check_images
from ..images.halves import measured
from ..images.layout import empty_images, is_channels_last
from ..images.turn import channels_last
from .launch import geometry
from .passes import convolve_columns, gradients_of_columns

__all__ = ["fused_columns2d"]


def fused_columns2d(
    x: Tensor, U: Tensor, r: Tensor, stride: tuple[int, int] = (1, 1), padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:  # fmt: skip
    """``y[b] = conv2d(x[b], U M[b])`` with the operators ``M`` of :func:`fused_shift_operator`, for ``K = 3``.

    Args:
        x: ``(B, C_in, H, W)``, float32, float16 or bfloat16, of any strides.
        U: knowledge base ``(C_out, C_in, 3, 3, 3)``, float32, float16 or bfloat16.
        r: ``(B, 4)``, float32.
        stride: in pixels, per axis.
        padding: in pixels, per axis, on both sides.
        dilation: in pixels, per axis.

    Returns:
        ``(B, C_out, H_out, W_out)`` in the dtype and memory format of ``x``. Gradients flow to ``x``, ``U`` and ``r``
        once.

    Raises:
        ValueError: for shapes or dtypes that do not fit.
        RuntimeError: where the kernels cannot run.
    """
    check_images(x, U, stride, padding, dilation, 1)
    if U.shape[2] != 3:
        raise ValueError(f"Columns need kernels of size 3, got {U.shape[2]}; choose `fused_conv2d`.")
    return torch.ops.monai_crossd.fused_columns2d(x, U, r, stride, padding, dilation)[0]


def _empty(x: Tensor, U: Tensor, stride, padding, dilation) -> tuple[Tensor, Tensor]:
    """The result, and its derivative to the shift along depth."""
    shape = (len(x), len(U), *output_size(x, U.shape[2], stride, padding, dilation))
    return empty_images(x, shape, is_channels_last(x)), empty_images(x, shape, True)


def forward(x, U, r, stride, padding, dilation) -> tuple[Tensor, Tensor]:
    """What the operator does, without its dispatch."""
    y, along = _empty(x, U, stride, padding, dilation)
    if len(x) > 0:
        x, U, r = channels_last(x), U.contiguous(), r.contiguous()
        convolve_columns(x, U, r, measured(x, U, None), y, along, geometry(stride, padding, dilation))
    return y, along


def backward(dy, x, U, r, along, stride, padding, dilation, need) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to ``x``, ``U`` and ``r``; the first two are empty where they are not needed."""
    dx, dU, dr = _empty_grads(x, U, r, need)
    if len(x) == 0:
        return dx, dU.zero_(), dr
    dy, x, U, r = dy.to(x.dtype), channels_last(x), U.contiguous(), r.contiguous()
    gradients_of_columns(
        dy, x, U, r, measured(x, U, None), along, dx if need[0] else None, dU if need[1] else None, dr,
        geometry(stride, padding, dilation),
    )  # fmt: skip
    return dx, dU, dr


def _empty_grads(x: Tensor, U: Tensor, r: Tensor, need: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_images(x, x.shape, is_channels_last(x)) if need[0] else x.new_empty((0,)),
        U.new_empty(U.shape if need[1] else (0,)),
        torch.empty_like(r, memory_format=torch.contiguous_format),
    )


_ARGUMENTS = "int[] stride, int[] padding, int[] dilation"
_OPERATOR = f"(Tensor x, Tensor U, Tensor r, {_ARGUMENTS}) -> (Tensor, Tensor)"
_GRADIENT = (
    f"(Tensor dy, Tensor x, Tensor U, Tensor r, Tensor along, {_ARGUMENTS}, bool[] need) -> (Tensor, Tensor, Tensor)"
)
_forward = torch.library.custom_op("monai_crossd::fused_columns2d", forward, mutates_args=(), schema=_OPERATOR)
_backward = torch.library.custom_op(
    "monai_crossd::fused_columns2d_backward", backward, mutates_args=(), schema=_GRADIENT
)


@_forward.register_fake
def _(x, U, r, stride, padding, dilation):
    return _empty(x, U, stride, padding, dilation)


@_backward.register_fake
def _(dy, x, U, r, along, stride, padding, dilation, need):
    return _empty_grads(x, U, r, need)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, U, r, *ctx.arguments = inputs
    ctx.save_for_backward(x, U, r, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    need = list(ctx.needs_input_grad[:3])
    grads = torch.ops.monai_crossd.fused_columns2d_backward(dy, *ctx.saved_tensors, *ctx.arguments, need)
    return (*(grad if needed else None for grad, needed in zip(grads, need, strict=True)), None, None, None)


def _refuse(ctx: Any, *_: Any) -> None:
    raise RuntimeError("`fused_columns2d` has no second derivative; choose backend 'grouped', which has.")


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_refuse)
