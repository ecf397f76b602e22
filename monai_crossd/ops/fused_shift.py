"""The whole way from an image to its shift operator on Triton kernels, in eager mode and in graphs.

In graphs it is two operators, ``fused_pool`` and ``fused_shift_operator``. In eager mode, where a small layer costs
what Python takes to launch it, it is one autograd function that calls their kernels without the operators' dispatch;
for higher derivatives it falls back on torch's own operators.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import fused_operator, fused_predictor
from .shift import rotation_to_shift, shift_operator, softmax_pool

__all__ = ["fused_predicted_operator"]


def fused_predicted_operator(
    x: Tensor, w1: Tensor, b1: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor, training: bool, momentum: float, eps: float, kernel_size: int,
) -> Tensor:  # fmt: skip
    """The shift operators that a predictor makes of images.

    Args:
        x: see :func:`monai_crossd.ops.fused_predictor.fused_pool`, and so for what is not named here.
        w1: see there.
        b1: see there.
        running_mean: see there.
        running_var: see there.
        gamma: see there.
        beta: see there.
        w2: see there.
        b2: see there.
        training: see there.
        momentum: see there.
        eps: see there.
        kernel_size: ``K``.

    Returns:
        ``(B, K*K, K*K*K)`` in float32.

    Raises:
        RuntimeError: see there.
        ValueError: see there.
    """
    parameters = (w1, b1, running_mean, running_var, gamma, beta, w2, b2)
    if torch.compiler.is_compiling():
        r = fused_predictor.fused_pool(x, *parameters, training, momentum, eps)
        return fused_operator.fused_shift_operator(r, kernel_size)
    fused_predictor.check(x, running_mean, running_var, training)
    keep = torch.is_grad_enabled()
    operator, stats = _PredictedOperator.apply(x, *parameters, training, eps, kernel_size, keep)
    fused_predictor.update_statistics(running_mean, running_var, stats, training, momentum)
    return operator


class _PredictedOperator(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, w1, b1, mean, var, gamma, beta, w2, b2, training, eps, kernel_size, keep):  # type: ignore
        r, h, stats, soft = fused_predictor.pool(x, w1, b1, mean, var, gamma, beta, w2, b2, training, eps, keep)
        running = (None, None) if training else (mean, var)  # in training they change before backward
        ctx.save_for_backward(x, h, stats, soft, w1, gamma, beta, w2, b1, b2, r, *running)
        ctx.training, ctx.eps, ctx.kernel_size = training, eps, kernel_size
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return fused_operator.forward(r, kernel_size), stats

    @staticmethod
    def backward(ctx: Any, dm: Tensor | None, _: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if dm is None:
            return (None,) * 13
        x, h, stats, soft, w1, gamma, beta, w2, b1, b2, r, mean, var = ctx.saved_tensors
        grads: list[Tensor | None]
        if torch.is_grad_enabled():  # a graph of the gradients is wanted
            grads = _plain_gradients(dm, [x, w1, b1, gamma, beta, w2, b2], mean, var, ctx)
        else:
            dr, need_dx = fused_operator.backward(dm, r, ctx.kernel_size), ctx.needs_input_grad[0]
            found = fused_predictor.pool_gradients(dr, x, h, stats, soft, w1, gamma, beta, w2, ctx.training, need_dx)
            grads = [found[0] if need_dx else None, *found[1:]]
        return *grads[:3], None, None, *grads[3:], None, None, None, None


def _plain_gradients(
    dm: Tensor, inputs: list[Tensor], mean: Tensor | None, var: Tensor | None, ctx: Any
) -> list[Tensor | None]:
    """Differentiable gradients by torch's own operators."""
    x, w1, b1, gamma, beta, w2, b2 = inputs
    h = F.conv2d(x, w1.to(x.dtype), b1.to(x.dtype))
    h = F.batch_norm(h, mean, var, gamma, beta, ctx.training, 0.0, ctx.eps)
    r = softmax_pool(F.conv2d(F.relu(h), w2.to(h.dtype), b2.to(h.dtype)))
    operator = shift_operator(rotation_to_shift(r.float()), ctx.kernel_size)
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(torch.autograd.grad(operator, wanted, dm, create_graph=True))
    return [next(found) if t.requires_grad else None for t in inputs]
