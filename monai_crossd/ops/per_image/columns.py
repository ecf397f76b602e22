"""The columns of a part mixed, times the knowledge base: no image has a kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import scratch
from .arguments import ConvArguments
from .taps import as_images, gathered, scattered

__all__ = ["backward", "forward"]


def forward(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments) -> Tensor:
    """A part of the batch."""
    size = weight.shape[-1]
    mixed = _mixed(_columns(x, size, conv), operator)
    y = mixed.view(-1, weight[0].numel()) @ weight.view(len(weight), -1).t()
    return as_images(y, x, size, conv)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients to a part: to its images, to the knowledge base, and to its operators."""
    (b, outputs, *image), size = dy.shape, weight.shape[-1]
    columns, dy = _columns(x, size, conv), dy.permute(0, 2, 3, 1).reshape(-1, outputs)
    mixed = _mixed(columns, operator).view(len(dy), -1)
    dweight = dy.t() @ mixed
    dmixed = torch.mm(dy, weight.view(outputs, -1), out=mixed).view(b, -1, size**3)
    doperator = torch.bmm(columns.transpose(1, 2), dmixed)  # (B, K*K, K*K*K)
    dx = None
    if needs_x:
        dcolumns = torch.bmm(dmixed, operator.transpose(1, 2), out=columns).view(b, *image, -1, size * size)
        dx = scattered(dcolumns.unbind(4), x, size, conv)
    return dx, dweight, doperator


def _columns(x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """``(B, C, H, W)`` to ``(B, H_out*W_out*C, K*K)``."""
    return gathered(x, size, conv, innermost=True).view(len(x), -1, size * size)


def _mixed(columns: Tensor, operator: Tensor) -> Tensor:
    """``(B, H_out*W_out*C, K*K*K)``, what the knowledge base is multiplied with."""
    mixed = scratch("mixed", (*columns.shape[:2], operator.shape[2]), operator)
    return torch.bmm(columns, operator, out=mixed)
