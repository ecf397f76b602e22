"""Convolution whose kernel is mixed per image from one knowledge base, as a custom op on Triton kernels.

``y[b] = conv2d(x[b], k[b])`` with ``k[b] = U M[b]``: few launches, no grouped convolution, and no kernels kept for the
backward pass, which mixes them again. ``kernels`` counts what it moves.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...in_graphs import define, library, where_needed
from ...per_image import output_size
from ..availability import DTYPES, available
from ..images.halves import measured
from ..images.layout import empty_images, is_channels_last
from ..images.turn import channels_last
from ..shift.launch import aligned
from . import passes
from .dense import convolve_each, gradients_of_each

__all__ = ["check_images", "fused_conv2d"]

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

    It multiplies in the dtype of ``x``, under autocast in autocast's, and adds in float32; where
    ``torch.backends.cudnn`` allows TF32 for convolutions, float32 is multiplied as ``halves`` says, where
    kernels 2**28 times smaller than the largest of the batch lose bits. Gradients flow to ``x``, ``U`` and ``M`` once.
    With up to four channels an infinite or NaN pixel makes NaN of up to 16 pixels beside its window, too.

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
    check(x, U, M, stride, padding, dilation, groups)
    return torch.ops.monai_crossd.fused_conv2d(x, U, M, stride, padding, dilation, groups)


def check(x, U, M, stride, padding, dilation, groups: int) -> None:
    """Refuse what the kernels cannot take."""
    check_images(x, U, stride, padding, dilation, groups)
    size = U.shape[2]
    if M.dtype != torch.float32 or tuple(M.shape) != (x.shape[0], size**2, size**3):
        raise ValueError(
            f"`M` must be ({x.shape[0]}, {size**2}, {size**3}) in float32, got {tuple(M.shape)} in {M.dtype}."
        )


def check_images(x, U, stride, padding, dilation, groups: int) -> None:
    """Refuse images and knowledge bases that the kernels cannot take."""
    if not available(x):
        raise RuntimeError(f"`fused_conv2d` needs Triton and a GPU, got `x` on {x.device}; choose backend 'grouped'.")
    if x.dtype not in DTYPES or U.dtype not in DTYPES:
        raise ValueError(
            f"`x` and `U` must be float32, float16 or bfloat16, got {x.dtype} and {U.dtype}; choose backend 'grouped' "
            "for others."
        )
    if U.ndim != 5 or not U.shape[2] == U.shape[3] == U.shape[4] or U.shape[0] % groups:
        raise ValueError(f"`U` must be (C_out, C_in/groups, K, K, K), got {tuple(U.shape)} with groups={groups}.")
    if x.ndim != 4 or x.shape[1] != U.shape[1] * groups:
        raise ValueError(f"`x` must be (B, {U.shape[1] * groups}, H, W) to fit `U`, got {tuple(x.shape)}.")
    if min(output_size(x, U.shape[2], stride, padding, dilation)) < 1:
        raise ValueError(f"`x` must be larger than the kernel after padding, got {tuple(x.shape)} and K={U.shape[2]}.")


def forward(x, U, M, stride, padding, dilation, groups) -> Tensor:
    """What the operator does, without its dispatch."""
    size, last = output_size(x, U.shape[2], stride, padding, dilation), is_channels_last(x)
    U, M = U.contiguous(), aligned(M)
    way, y = passes.chosen_way(x, U, size, groups), empty_images(x, (len(x), len(U), *size), last)
    if way == "dense":
        convolve_each(x, passes.mixed(x, U, M, groups, last), y, stride, padding, dilation, groups)
    else:
        x = channels_last(x)
        passes.convolve(x, U, M, measured(x, U, M), y, stride, padding, dilation, groups)
    return y


def backward(dy, x, U, M, stride, padding, dilation, groups, need) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to ``x``, ``U`` and ``M``, without the operator's dispatch; those not needed are empty."""
    way = passes.chosen_way(x, U, dy.shape[2:], groups)
    dx, dU, dM = _empty_grads(way, dy, x, U, M, [need[0], need[1] and way != "dense", need[2]])
    if len(x) == 0:
        return dx, dU.zero_().to(U.dtype), dM
    dy, U, M = dy.to(x.dtype), U.contiguous(), aligned(M)
    into = dx if need[0] else None
    if way == "dense":
        kernels = partial(passes.mixed, x, U, M, groups, is_channels_last(x))
        dk = gradients_of_each(dy, x, kernels, into, U.shape[2], stride, padding, dilation, groups)
        of_weight, of_M = passes.launch_unmixed(dk, U, M, need[1])
        return dx, of_weight[0] if need[1] else dU, of_M.sum((0, 2)) if need[2] else dM
    dy, x = channels_last(dy), channels_last(x)
    ranges, wanted = measured(x, U, M), (into, dU if need[1] else None)
    for part, of_part in passes.gradients(dy, x, U, M, ranges, *wanted, stride, padding, dilation, groups, need[2]):
        if need[2]:
            dM[part] = of_part.sum((0, 2))
    return dx, dU.to(U.dtype), dM


def _empty_grads(
    way: str, dy: Tensor, x: Tensor, U: Tensor, M: Tensor, need: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    nothing = (0,)
    return (
        empty_images(x, x.shape, is_channels_last(x)) if need[0] else x.new_empty(nothing),
        passes.empty_weight_grad(way, dy, x, U) if need[1] else U.new_empty(nothing),
        torch.empty(M.shape if need[2] else nothing, dtype=torch.float32, device=M.device),
    )


_OPERATOR = f"(Tensor x, Tensor U, Tensor M, {_ARGUMENTS}) -> Tensor"
_GRADIENT = f"(Tensor dy, Tensor x, Tensor U, Tensor M, {_ARGUMENTS}, bool[] need) -> (Tensor, Tensor, Tensor)"


def _fake(x, U, M, stride, padding, dilation, groups):
    shape = (x.shape[0], U.shape[0], *output_size(x, U.shape[2], stride, padding, dilation))
    return empty_images(x, shape, is_channels_last(x))


def _fake_backward(dy, x, U, M, stride, padding, dilation, groups, need):
    dx, dU, dM = _empty_grads("", dy, x, U, M, need)
    return dx, dU.to(U.dtype), dM


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, U, M, *ctx.arguments = inputs
    ctx.save_for_backward(x, U, M)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad
    given = (*ctx.saved_tensors, *ctx.arguments, list(needed[:3]))
    return where_needed(torch.ops.monai_crossd.fused_conv2d_backward(dy, *given), needed)


def _differentiate_twice(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("`fused_conv2d` has no second derivative; choose backend 'grouped', which has.")


define("fused_conv2d", _OPERATOR, forward, _fake, _differentiate, _save)
define("fused_conv2d_backward", _GRADIENT, backward, _fake_backward, _differentiate_twice)


def _cast_images(kind: str) -> None:
    """Register the rule of autocast on devices of this kind: images take its dtype, kernels cast all else themselves.

    As torch's own rules do, it leaves float64 and integers alone, for the operator to refuse.
    ``torch.library.register_autocast`` casts every argument, and to one dtype for all times.
    """
    key = f"Autocast{torch._C._dispatch_key_for_device(kind)}"
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def rule(_: Any, x: Tensor, *others: Any) -> Tensor:
        if x.dtype in DTYPES:
            x = x.to(torch.get_autocast_dtype(kind))
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return torch.ops.monai_crossd.fused_conv2d(x, *others)

    library.impl("fused_conv2d", rule, key, with_keyset=True)


for kind in ("cuda", "cpu"):
    _cast_images(kind)
