"""The predictor up to its pooled numbers as one differentiable operator on Triton kernels.

``fused_pool`` is ``softmax_pool(conv2(relu(bn(conv1(x)))))`` of ``ShiftPredictor``. ``kernels`` has the
equations and says what is moved. The operators ``monai_crossd::predictor_pool`` and
``monai_crossd::predictor_pool_backward`` are functional, so ``torch.compile(fullgraph=True)``, activation checkpointing
and CUDA graphs take them as they are.

There is no autocast rule, on purpose: ``torch.library.register_autocast`` casts every argument, the running variance
too, to one dtype. Under autocast the operator takes ``x`` in the dtype in which it comes and casts ``W1`` to it inside
of the kernel; all else is float32, and every gradient has the dtype of its argument.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import availability
from .launch import Predictor, Running, empty_grads, shape_h, write_gradients, write_pool

__all__ = ["available", "fused_pool"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def available(x: Tensor) -> bool:
    """Whether the kernels can take ``x``: Triton is there, ``x`` on CUDA or Triton interpreted, the dtype supported."""
    return availability.available(x) and x.dtype in DTYPES


@torch.library.custom_op("monai_crossd::predictor_pool", mutates_args=())
def _pool(
    x: Tensor, w1: Tensor, b1: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor, training: bool, eps: float, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``r``, and for backward ``h`` where it is kept, the statistics (2 or 4, N) and those of the softmax (3, B, 4)."""
    r, h, stats, soft = _empty_pool(x, w1, training, keep)
    if x.numel() == 0:
        return r.zero_(), h, stats, soft
    running = None
    if not training and running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, stats)
    net = Predictor(*(t.contiguous() for t in (w1, b1, gamma, beta, w2, b2)))
    write_pool(x, net, running, training, eps, keep, h, stats, soft, r)
    return r, h, stats, soft


def _empty_pool(x: Tensor, w1: Tensor, training: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hidden, images = w1.shape[0], x.shape[0]
    shapes = ((images, 4), (4 if training else 2, hidden), (3, images, 4))
    r, stats, soft = (x.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return r, x.new_empty(shape_h(x, hidden, keep)), stats, soft


@_pool.register_fake
def _(x, w1, b1, running_mean, running_var, gamma, beta, w2, b2, training, eps, keep):  # type: ignore[no-untyped-def]
    return _empty_pool(x, w1, training, keep)


@torch.library.custom_op("monai_crossd::predictor_pool_backward", mutates_args=())
def _pool_backward(
    dr: Tensor, x: Tensor, h: Tensor, stats: Tensor, soft: Tensor, w1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor,
    training: bool, need_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    b1, b2 = w1[:, 0, 0, 0], w2[:, 0, 0, 0]  # their gradients have the dtypes of w1 and w2
    net = Predictor(*(t.contiguous() for t in (w1, b1, gamma, beta, w2, b2)))
    grads = empty_grads(net)
    if x.numel() == 0:
        return dx, *(grad.zero_() for grad in grads)  # type: ignore[return-value]
    into = dx if need_dx else None
    write_gradients(dr.float().contiguous(), x, h, stats, soft, net, training, grads, into, add=False)
    return dx, *grads  # type: ignore[return-value]


@_pool_backward.register_fake
def _(dr, x, h, stats, soft, w1, gamma, beta, w2, training, need_dx):  # type: ignore[no-untyped-def]
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    vectors = [t.new_empty(t.shape[0]) for t in (w1, gamma, beta)]
    return dx, w1.new_empty(w1.shape), *vectors, w2.new_empty(w2.shape), w2.new_empty(4)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, w1, _, _, _, gamma, beta, w2, _, ctx.training, _, _ = inputs
    _, h, stats, soft = output
    ctx.save_for_backward(x, h, stats, soft, w1, gamma, beta, w2)
    ctx.mark_non_differentiable(h, stats, soft)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dr: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if dr is None:
        return (None,) * 12
    dx, dw1, db1, *affine, dw2, db2 = _pool_backward(dr, *ctx.saved_tensors, ctx.training, ctx.needs_input_grad[0])
    return dx if ctx.needs_input_grad[0] else None, dw1, db1, None, None, *affine, dw2, db2, None, None, None


def _refuse(ctx: Any, *_: Any) -> None:
    raise RuntimeError("The fused predictor has no second derivative; use the plain modules for one.")


_pool.register_autograd(_backward, setup_context=_save)
_pool_backward.register_autograd(_refuse)


def fused_pool(
    x: Tensor, w1: Tensor, b1: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor, training: bool, momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """The predictor's four numbers of every image; ``rotation_to_shift`` turns them into its shift.

    Args:
        x: ``(B, C, H, W)`` of any strides, in float32, bfloat16 or float16.
        w1: weight of the first convolution, ``(N, C, 1, 1)``; made for ``N = 16``.
        b1: its bias, ``(N,)``.
        running_mean: of BatchNorm2d, ``(N,)``; in training it is updated in place. ``None`` where none is tracked.
        running_var: likewise.
        gamma: weight of BatchNorm2d, ``(N,)``.
        beta: bias of BatchNorm2d, ``(N,)``.
        w2: weight of the second convolution, ``(4, N, 1, 1)``.
        b2: its bias, ``(4,)``.
        training: normalize with the batch's statistics.
        momentum: of the running statistics; for BatchNorm2d's ``None`` give one over the number of batches so far.
        eps: of BatchNorm2d.

    Returns:
        ``r`` of shape ``(B, 4)`` in float32.

    Raises:
        RuntimeError: if the kernels cannot take ``x``.
        ValueError: if statistics are missing or one value per channel is to be normalized by itself.
    """
    check(x, running_mean, running_var, training)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w1, b1, gamma, beta, w2, b2))
    r, _, stats, _ = _pool(x, w1, b1, running_mean, running_var, gamma, beta, w2, b2, training, eps, keep)
    update_statistics(running_mean, running_var, stats, training and x.numel() > 0, momentum)
    return r


def check(x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, training: bool) -> None:
    """Refuse what the kernels cannot take."""
    if not available(x):
        message = f"`x` must be float32, bfloat16 or float16 on CUDA with Triton, got {x.dtype} on {x.device}"
        raise RuntimeError(message + "; use the plain modules.")
    if not training and (running_mean is None or running_var is None):
        raise ValueError("`running_mean` and `running_var` must be given in eval mode, got None; set `training=True`.")
    if training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
        raise ValueError(f"`x` must have more than one value per channel in training, got shape {tuple(x.shape)}.")


def update_statistics(
    running_mean: Tensor | None, running_var: Tensor | None, stats: Tensor, training: bool, momentum: float
) -> None:
    """Move the running statistics towards those of the batch, in place."""
    if training and running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(stats[2].to(running_mean.dtype), momentum)
            running_var.lerp_(stats[3].to(running_var.dtype), momentum)
