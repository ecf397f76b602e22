"""The images of a part as the groups of one convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..memory import scratch
from .arguments import ConvArguments

__all__ = ["backward", "forward", "from_kernels", "grouped_conv", "kernels_of"]


def grouped_conv(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments) -> Tensor:
    """The grouped form for a whole batch at once, of differentiable calls: for higher derivatives."""
    return _convolved(x, kernels_of(weight, operator), conv)


def forward(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments) -> Tensor:
    """A part of the batch."""
    return _convolved(x, kernels_of(weight, operator, reuse=True), conv)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients to a part: to its images, to the knowledge base, and to its operators."""
    dx, dkernels, _ = torch.ops.aten.convolution_backward(
        _folded(dy), _folded(x), kernels_of(weight, operator, reuse=True), None, *_for_images(conv, len(x)),
        [needs_x, True, False],
    )  # fmt: skip
    return dx.view(x.shape) if needs_x else None, *from_kernels(dkernels, weight, operator)


def kernels_of(weight: Tensor, operator: Tensor, reuse: bool = False) -> Tensor:
    """``U M^T`` of all images by one product, ``(B*C0, C1, K, K)``; ``reuse``: in memory that the next part takes."""
    c0, c1, size = weight.shape[:3]
    b, taps, voxels = operator.shape
    product = scratch("product", (c0 * c1, b * taps), operator) if reuse else None
    product = torch.mm(weight.reshape(c0 * c1, voxels), operator.reshape(b * taps, voxels).t(), out=product)
    kernels = product.view(c0 * c1, b, taps).transpose(0, 1)
    if reuse:
        kernels = scratch("kernels", (b, c0 * c1, taps), operator).copy_(kernels)
    return kernels.reshape(b * c0, c1, size, size)


def from_kernels(dkernels: Tensor, weight: Tensor, operator: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients to the knowledge base, as a matrix, and to the operators from that to :func:`kernels_of`."""
    b, taps, voxels = operator.shape
    u = weight.reshape(-1, voxels)  # (C0*C1, K*K*K)
    turned = scratch("product", (len(u), b, taps), operator)
    turned = turned.copy_(dkernels.reshape(b, -1, taps).transpose(0, 1)).view(-1, b * taps)  # (C0*C1, B*K*K)
    return turned @ operator.reshape(b * taps, voxels), (turned.t() @ u).view(operator.shape)


def _folded(images: Tensor) -> Tensor:
    b, c, h, w = images.shape
    return images.reshape(1, b * c, h, w)


def _convolved(x: Tensor, kernels: Tensor, conv: ConvArguments) -> Tensor:
    y = torch.convolution(_folded(x), kernels, None, *_for_images(conv, len(x)))
    return y.view(len(x), -1, y.shape[2], y.shape[3])


def _for_images(conv: ConvArguments, images: int) -> tuple[Any, ...]:
    return (*conv[:-1], conv.groups * images)
