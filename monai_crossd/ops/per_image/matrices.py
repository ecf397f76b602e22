"""The kernels of a part as matrices, each times the columns of its image."""

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
    y = torch.bmm(_columns(x, size, conv), _kernels(_turned(weight), operator, len(weight)))
    return as_images(y, x, size, conv)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients to a part: to its images, to the knowledge base, and to its operators."""
    (b, outputs, *image), (_, taps, voxels), size = dy.shape, operator.shape, weight.shape[-1]
    columns, dy, turned = _columns(x, size, conv), dy.permute(0, 2, 3, 1).reshape(b, -1, outputs), _turned(weight)
    dkernels = scratch("product", (b, columns.shape[2], outputs), operator)
    torch.bmm(columns.transpose(1, 2), dy, out=dkernels)
    dkernels = dkernels.view(b * taps, -1)  # (B*K*K, C_in*C_out)
    doperator = (dkernels @ turned.t()).view(operator.shape)
    dweight = operator.reshape(b * taps, voxels).t() @ dkernels  # (K*K*K, C_in*C_out)
    dweight = dweight.view(voxels, -1, outputs).permute(2, 1, 0).reshape(-1, voxels)
    dx = None
    if needs_x:
        kernels = _kernels(turned, operator, outputs)
        dcolumns = torch.bmm(dy, kernels.transpose(1, 2), out=columns).view(b, *image, taps, -1)
        dx = scattered(dcolumns, x, size, conv, axis=3)
    return dx, dweight, doperator


def _columns(x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """``(B, C, H, W)`` to ``(B, H_out*W_out, K*K*C)``."""
    columns = gathered(x, size, conv, axis=3)
    return columns.view(len(x), -1, size * size * x.shape[1])


def _turned(weight: Tensor) -> Tensor:
    """The knowledge base as ``(K*K*K, C_in*C_out)``: kernels come from it as the matrices that columns are times."""
    outputs, channels, size = weight.shape[:3]
    turned = scratch("turned", (size**3, channels, outputs), weight)
    return turned.copy_(weight.view(outputs, channels, -1).permute(2, 1, 0)).view(size**3, -1)


def _kernels(turned: Tensor, operator: Tensor, outputs: int) -> Tensor:
    """``(B, K*K*C_in, C_out)``."""
    b, taps, voxels = operator.shape
    kernels = scratch("kernels", (b * taps, turned.shape[1]), operator)
    return torch.mm(operator.reshape(b * taps, voxels), turned, out=kernels).view(b, -1, outputs)
