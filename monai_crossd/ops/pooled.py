"""The predictor's four numbers of every image on a CPU, in eager mode, without its maps in memory.

``r = pool(W2 relu(gamma (W1 x + b1 - mean) / std + beta) + b2)``. The maps have many more numbers than what a small
layer works on besides, and to get so much memory anew from the system takes longer than the arithmetic. So images are
taken in parts whose maps lie in memory that is used again, and the backward pass makes them anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .memory import scratch
from .per_image import apart, graph_of_gradients, is_batched
from .shift import softmax_pool

__all__ = ["batch_statistics", "pooled_features"]

_PART = 4 << 20  #: bytes of the maps of a part, what a CPU's cache holds


@torch.no_grad()
def batch_statistics(x: Tensor, w1: Tensor, b1: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of ``W1 x + b1`` over images and space, both ``(C,)``."""
    x, w1 = x.flatten(2), w1.flatten(1)
    shift = -(w1 @ x.mean(dim=(0, 2)))
    square = torch.zeros_like(b1)
    for part in _parts(x, len(w1)):
        centered = _product("normal", w1, x[part], shift)
        square += centered.mul_(centered).sum(dim=(0, 2))
    return b1 - shift, square / (len(x) * x.shape[2])


def pooled_features(x: Tensor, net: Sequence[Tensor], mean: Tensor, var: Tensor, eps: float, of_batch: bool) -> Tensor:
    """Two 1x1 convolutions with normalization and ReLU between them, and softmax pooling.

    Args:
        x: images ``(B, C_in, H, W)``.
        net: ``W1 (C, C_in, 1, 1)``, ``b1``, ``gamma``, ``beta``, ``W2 (4, C, 1, 1)`` and ``b2``, in the dtype of ``x``.
        mean: of the hidden channels, ``(C,)``.
        var: likewise.
        eps: added to ``var``.
        of_batch: whether these are the :func:`batch_statistics` of ``x``, which gradients go through.

    Returns:
        ``(B, 4)``.
    """
    return _Pooled.apply(x, *net, mean, var, eps, of_batch)


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(x, w1, b1, gamma, beta, w2, b2, mean, var, eps, of_batch) -> Tensor:  # type: ignore[no-untyped-def]
        x, scale = x.flatten(2), gamma * (var + eps).rsqrt()
        w1, b1 = w1.flatten(1) * scale[:, None], (b1 - mean) * scale + beta
        pooled = []
        for part in _parts(x, len(w1)):
            hidden = _product("hidden", w1, x[part], b1).relu_()
            maps = _product("maps", w2.flatten(1), hidden, b2)
            pooled.append(_softmax(maps).mul_(maps).sum(dim=-1))
        return torch.cat(pooled)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.eps, ctx.of_batch = inputs
        ctx.save_for_backward(*tensors, output)

    @staticmethod
    def backward(ctx: Any, dr: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, mean, var, r = ctx.saved_tensors
        needed = ctx.needs_input_grad[:7]
        if torch.is_grad_enabled() or is_batched(dr):
            with torch.enable_grad():
                separate = apart(*inputs)
                graph = _plain(separate, None if ctx.of_batch else (mean, var), ctx.eps)
                return *graph_of_gradients(graph, separate, needed, dr), None, None, None, None
        gradients = _gradients(inputs, mean, (var + ctx.eps).rsqrt(), r, dr, ctx.of_batch, needed[0])
        return *gradients, None, None, None, None


def _plain(inputs: Sequence[Tensor], statistics: tuple[Tensor, Tensor] | None, eps: float) -> Tensor:
    """The same of torch's own operators, for higher derivatives; without statistics by those of the batch."""
    x, w1, b1, gamma, beta, w2, b2 = inputs
    mean, var = statistics or (None, None)
    h = F.batch_norm(F.conv2d(x, w1, b1), mean, var, gamma, beta, statistics is None, 0.0, eps)
    return softmax_pool(F.conv2d(F.relu(h), w2, b2))


class _Maps:
    """What the backward pass makes anew of the images of a part."""

    def __init__(self, inputs: Sequence[Tensor], mean: Tensor, rstd: Tensor, r: Tensor, dr: Tensor) -> None:
        images, w1, b1, gamma, self.beta, w2, self.b2 = inputs
        self.x, self.w2, self.gamma = images.flatten(2), w2.flatten(1), gamma[:, None]
        self.weight, self.shift = w1.flatten(1) * rstd[:, None], (b1 - mean) * rstd
        self.r, self.dr = r[:, :, None], dr[:, :, None]

    def gradients(self, part: slice) -> tuple[Tensor, ...]:
        """Normalized and rectified channels, and gradients of the four maps and of the scaled channels."""
        normal = _product("normal", self.weight, self.x[part], self.shift)
        hidden = torch.mul(normal, self.gamma, out=scratch("hidden", tuple(normal.shape), normal))
        hidden.add_(self.beta[:, None]).relu_()
        maps = _product("maps", self.w2, hidden, self.b2)
        dmaps = _softmax(maps).mul_(self.dr[part]).mul_(maps.sub_(self.r[part] - 1))
        dhidden = _product("dhidden", self.w2.t(), dmaps)
        torch.ops.aten.threshold_backward.grad_input(dhidden, hidden, 0, grad_input=dhidden)
        return normal, hidden, dmaps, dhidden


def _gradients(
    inputs: Sequence[Tensor], mean: Tensor, rstd: Tensor, r: Tensor, dr: Tensor, of_batch: bool, needs_x: bool
) -> tuple[Tensor | None, ...]:
    _, w1, b1, gamma, beta, w2, _ = inputs
    of, scale = _Maps(inputs, mean, rstd, r, dr), gamma * rstd
    x, pixels, parts = of.x, len(of.x) * of.x.shape[2], _parts(of.x, len(w1))
    dw1, dgamma, dbeta, dw2 = (torch.zeros_like(t) for t in (of.weight, gamma, beta, of.w2))
    moments = torch.zeros_like(of.weight)  # of what is normalized with x
    for part in parts:
        normal, hidden, dmaps, dhidden = of.gradients(part)
        dw2 += torch.bmm(dmaps, hidden.transpose(1, 2)).sum(dim=0)
        dw1 += torch.bmm(dhidden, x[part].transpose(1, 2)).sum(dim=0)
        dbeta += dhidden.sum(dim=(0, 2))
        dgamma += torch.mul(dhidden, normal, out=hidden).sum(dim=(0, 2))
        if of_batch:
            moments += torch.bmm(normal, x[part].transpose(1, 2)).sum(dim=0)
    if of_batch:
        dw1 -= torch.outer(dbeta, x.mean(dim=(0, 2))) + (dgamma / pixels)[:, None] * moments
    dx = None
    if needs_x:
        dx, back = torch.empty_like(x), (w1.flatten(1) * scale[:, None]).t()
        for part in parts:
            if len(parts) > 1:
                normal, _, _, dhidden = of.gradients(part)
            if of_batch:
                dhidden -= normal.mul_(dgamma[:, None] / pixels).add_(dbeta[:, None] / pixels)
            torch.bmm(back.expand(len(dhidden), -1, -1), dhidden, out=dx[part])
        dx = dx.view(inputs[0].shape)
    db1 = torch.zeros_like(b1) if of_batch else scale * dbeta
    return dx, (dw1 * scale[:, None]).view(w1.shape), db1, dgamma, dbeta, dw2.view(w2.shape), dr.sum(dim=0)


def _parts(x: Tensor, channels: int) -> list[slice]:
    size = max(1, _PART // (channels * x.shape[2] * x.itemsize))
    return [slice(start, start + size) for start in range(0, len(x), size)]


def _softmax(maps: Tensor) -> Tensor:
    return torch.softmax(maps, dim=-1, out=scratch("softmax", tuple(maps.shape), maps))


def _product(name: str, weight: Tensor, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """``weight x + shift`` of images ``(B, C, P)``, in memory of that name."""
    product = scratch(name, (len(x), len(weight), x.shape[2]), x)
    torch.bmm(weight.expand(len(x), -1, -1), x, out=product)
    return product if shift is None else product.add_(shift[:, None])
