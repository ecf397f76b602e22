"""The kernels of a part as matrices, one for each tap, each times what that tap reads of its image."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import scratch
from .arguments import ConvArguments
from .taps import as_images, gathered, scattered

__all__ = ["backward", "forward"]


def forward(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments) -> Tensor:
    """A part of the batch."""
    columns, kernels = _columns(x, weight.shape[-1], conv), _kernels(weight, operator)
    y = x.new_empty(len(x), columns.shape[1], len(weight))
    for tap, kernel in enumerate(kernels):
        y.baddbmm_(columns[:, :, tap], kernel.transpose(1, 2), beta=min(tap, 1))
    return as_images(y, x, weight.shape[-1], conv)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients to a part: to its images, to the knowledge base, and to its operators."""
    (b, taps, voxels), size, columns = operator.shape, weight.shape[-1], _columns(x, weight.shape[-1], conv)
    dy = dy.permute(0, 2, 3, 1).reshape(b, -1, len(weight))
    dkernels = scratch("product", (taps, b, *weight.shape[:2]), operator)
    for tap, dkernel in enumerate(dkernels):
        torch.bmm(dy.transpose(1, 2), columns[:, :, tap], out=dkernel)
    turned = dkernels.view(taps * b, -1)
    doperator = (turned @ weight.reshape(-1, voxels)).view(taps, b, voxels).transpose(0, 1)
    dweight = (_by_taps(operator).t() @ turned).t().contiguous()  # of a product with few rows, which is faster
    dx = None
    if needs_x:
        read = scratch("columns", (b, dy.shape[1], x.shape[1]), x)
        kernels = _kernels(weight, operator)
        dx = scattered((torch.bmm(dy, kernel, out=read) for kernel in kernels), x, size, conv)
    return dx, dweight, doperator


def _columns(x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """``(B, C, H, W)`` to ``(B, H_out*W_out, K*K, C)``."""
    return gathered(x, size, conv, axis=3).flatten(1, 2)


def _by_taps(operator: Tensor) -> Tensor:
    """Rows ``(K*K, B)`` of all operators, so that the kernels of a tap follow one another."""
    return operator.transpose(0, 1).reshape(-1, operator.shape[2])


def _kernels(weight: Tensor, operator: Tensor) -> Tensor:
    """``(K*K, B, C_out, C_in)``."""
    b, taps, voxels = operator.shape
    kernels = scratch("kernels", (taps, b, *weight.shape[:2]), operator)
    torch.mm(_by_taps(operator), weight.reshape(-1, voxels).t(), out=kernels.view(taps * b, -1))
    return kernels
