"""Convolution whose kernel is mixed per image from one knowledge base, as a custom op on Triton kernels.

``y[b] = conv2d(x[b], k[b])`` with ``k[b] = U M[b]``: few launches, no grouped convolution, and no kernels kept for the
backward pass, which mixes them again. ``triton_conv`` counts what it moves. Triton is imported by the first call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .availability import available

__all__ = ["BUDGET", "backward", "check", "forward", "fused_conv2d"]

BUDGET = 256 * 2**20  # bytes of kernels held at once, except for one image's; larger batches run in chunks
_ARGUMENTS = "int[] stride, int[] padding, int[] dilation, int groups"


def fused_conv2d(
    x: Tensor,
    U: Tensor,
    M: Tensor,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """``y[b] = conv2d(x[b], U M[b])`` with zero padding.

    It multiplies in the dtype of ``x``, under autocast in autocast's, and adds in float32; float32 is multiplied in
    TF32 where ``torch.backends.cudnn`` allows that for convolutions. Gradients flow to ``x``, ``U`` and ``M`` once.

    Args:
        x: ``(B, C_in, H, W)``, float32, float16 or bfloat16, of any strides; channels_last is the fastest.
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``, float32, float16 or bfloat16.
        M: ``(B, K*K, K*K*K)``, float32, from ``shift_operator``.
        stride: in pixels, per axis.
        padding: in pixels, per axis, on both sides.
        dilation: in pixels, per axis.
        groups: of every image's own convolution.

    Returns:
        ``(B, C_out, H_out, W_out)`` in the dtype and memory format of ``x``.

    Raises:
        ValueError: for shapes or dtypes that do not fit.
        RuntimeError: where the kernels cannot run.
    """
    if torch.is_autocast_enabled(x.device.type):  # here and not in the op, whose rule could name one fixed dtype only
        x = x.to(torch.get_autocast_dtype(x.device.type))
    check(x, U, M, stride, padding, dilation, groups)
    return torch.ops.monai_crossd.fused_conv2d(x, U, M, stride, padding, dilation, groups)


def check(x, U, M, stride, padding, dilation, groups: int) -> None:
    """Refuse what the kernels cannot take."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    if not available(x):
        raise RuntimeError(f"`fused_conv2d` needs Triton and a GPU, got `x` on {x.device}; choose backend 'grouped'.")
    if x.dtype not in dtypes or U.dtype not in dtypes or M.dtype != torch.float32:
        raise ValueError(
            "`x` and `U` must be float32, float16 or bfloat16 and `M` float32, "
            f"got {x.dtype}, {U.dtype} and {M.dtype}; choose backend 'grouped' for others."
        )
    if U.ndim != 5 or not U.shape[2] == U.shape[3] == U.shape[4] or U.shape[0] % groups:
        raise ValueError(f"`U` must be (C_out, C_in/groups, K, K, K), got {tuple(U.shape)} with groups={groups}.")
    if x.ndim != 4 or x.shape[1] != U.shape[1] * groups:
        raise ValueError(f"`x` must be (B, {U.shape[1] * groups}, H, W) to fit `U`, got {tuple(x.shape)}.")
    size = U.shape[2]
    if M.ndim != 3 or M.shape[0] != x.shape[0] or M.shape[1] != size**2 or M.shape[2] != size**3:
        raise ValueError(f"`M` must be ({x.shape[0]}, {size**2}, {size**3}), got {tuple(M.shape)}.")
    if min(_output_size(x, U, stride, padding, dilation)) < 1:
        raise ValueError(f"`x` must be larger than the kernel after padding, got {tuple(x.shape)} and K={size}.")


def _output_size(x: Tensor, U: Tensor, stride, padding, dilation) -> tuple[int, int]:
    h, w = ((x.shape[2 + i] + 2 * padding[i] - dilation[i] * (U.shape[2] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    return h, w


def _channels_last(x: Tensor) -> Tensor:
    """Images whose channels lie side by side: reading others takes the kernels up to seven times as long."""
    return x if x.stride(1) == 1 else x.contiguous(memory_format=torch.channels_last)


def _empty(x: Tensor, c: int, h: int, w: int) -> Tensor:
    """An image tensor of another size, in the memory format of ``x``."""
    channels_last = x.stride(1) == 1 and x.stride(3) != 1
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((x.shape[0], c, h, w), dtype=x.dtype, device=x.device, memory_format=memory_format)


def _chunks(x: Tensor, U: Tensor) -> Iterator[slice]:
    """Parts of the batch whose kernels stay below the budget."""
    from .triton_launch import image_bytes

    images = min(max(1, BUDGET // image_bytes(U, x.dtype)), 65535)  # the most programs of a grid's second axis
    return (slice(first, first + images) for first in range(0, x.shape[0], images))


def forward(x, U, M, stride, padding, dilation, groups) -> Tensor:
    """What the operator does, without its dispatch."""
    from . import triton_launch as kernels

    y = _empty(x, U.shape[0], *_output_size(x, U, stride, padding, dilation))
    x, U, M = _channels_last(x), U.contiguous(), M.contiguous()
    h, w = (kernels.forward_axis(stride[i], padding[i], dilation[i], U.shape[2]) for i in (0, 1))
    with torch.cuda.device_of(x):
        for part in _chunks(x, U):
            kernels.convolve(x[part], kernels.mix(U, M[part], x.dtype, groups), y[part], groups, h, w)
    return y


def backward(dy, x, U, M, stride, padding, dilation, groups, need) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to ``x``, ``U`` and ``M``, without the operator's dispatch; those not needed are empty."""
    from . import triton_launch as kernels

    dx, dU, dM = _empty_grads(x, U, M, need)
    dU = dU.zero_() if x.shape[0] == 0 else dU
    dy, x, U, M = _channels_last(dy.to(x.dtype)), _channels_last(x), U.contiguous(), M.contiguous()
    size = U.shape[2]
    rows, columns = (kernels.input_grad_axes(stride[i], padding[i], dilation[i], size) for i in (0, 1))
    with torch.cuda.device_of(x):
        for part in _chunks(x, U):
            if need[0]:
                k = kernels.mix(U, M[part], x.dtype, groups, transposed=True)
                for i, h in enumerate(rows):
                    for j, w in enumerate(columns):
                        pixels = dx[part, :, i :: stride[0], j :: stride[1]]
                        kernels.convolve(dy[part], k, pixels, groups, h, w)
                del k
            if need[1] or need[2]:
                dk = kernels.kernel_grad(x[part], dy[part], size, stride, padding, dilation, groups)
                dU_part, dM_part = kernels.unmix(U, M[part], dk, need[1], need[2])
                del dk
                dU = dU_part if part.start == 0 else dU.add_(dU_part)
                dM[part] = dM_part  # nothing to nothing where not needed
    return dx, dU.to(U.dtype), dM


def _empty_grads(x: Tensor, U: Tensor, M: Tensor, need: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    nothing = (0,)
    return (
        _empty(x, *x.shape[1:]) if need[0] else x.new_empty(nothing),
        torch.empty(U.shape if need[1] else nothing, dtype=torch.float32, device=U.device),
        torch.empty(M.shape if need[2] else nothing, dtype=torch.float32, device=M.device),
    )


_OPERATOR = f"(Tensor x, Tensor U, Tensor M, {_ARGUMENTS}) -> Tensor"
_GRADIENT = f"(Tensor dy, Tensor x, Tensor U, Tensor M, {_ARGUMENTS}, bool[] need) -> (Tensor, Tensor, Tensor)"
_forward = torch.library.custom_op("monai_crossd::fused_conv2d", forward, mutates_args=(), schema=_OPERATOR)
_backward = torch.library.custom_op("monai_crossd::fused_conv2d_backward", backward, mutates_args=(), schema=_GRADIENT)


@_forward.register_fake
def _(x, U, M, stride, padding, dilation, groups):
    return _empty(x, U.shape[0], *_output_size(x, U, stride, padding, dilation))


@_backward.register_fake
def _(dy, x, U, M, stride, padding, dilation, groups, need):
    dx, dU, dM = _empty_grads(x, U, M, need)
    return dx, dU.to(U.dtype), dM


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, U, M, *ctx.arguments = inputs
    ctx.save_for_backward(x, U, M)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    need = list(ctx.needs_input_grad[:3])
    grads = torch.ops.monai_crossd.fused_conv2d_backward(dy, *ctx.saved_tensors, *ctx.arguments, need)
    return (*(grad if needed else None for grad, needed in zip(grads, need, strict=True)), None, None, None, None)


def _differentiate_twice(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("`fused_conv2d` has no second derivative; choose backend 'grouped', which has.")


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_differentiate_twice)
