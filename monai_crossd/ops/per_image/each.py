"""The images of a part by a convolution each."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import ConvArguments
from .grouped import from_kernels, kernels_of

__all__ = ["backward", "forward"]


def forward(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments) -> Tensor:
    """A part of the batch."""
    kernels = kernels_of(weight, operator, reuse=True).chunk(len(x))
    return torch.cat([torch.convolution(x[i : i + 1], k, None, *conv) for i, k in enumerate(kernels)])


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients to a part: to its images, to the knowledge base, and to its operators."""
    dx, dkernels, needs = [], [], [needs_x, True, False]
    for i, k in enumerate(kernels_of(weight, operator, reuse=True).chunk(len(x))):
        image = slice(i, i + 1)
        of_x, of_k, _ = torch.ops.aten.convolution_backward(dy[image], x[image], k, None, *conv, needs)
        dx.append(of_x)
        dkernels.append(of_k)
    return torch.cat(dx) if needs_x else None, *from_kernels(torch.stack(dkernels), weight, operator)
