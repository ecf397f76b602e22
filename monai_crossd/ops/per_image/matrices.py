"""The kernels of some outputs as one matrix an image, times the columns of that image, then those of the next outputs.

So many outputs at a time that what they have for all images of a part is about what the caches of a CPU hold, backward
less: what one core has formed another one multiplies, which has it sooner from where both find it. A kernel's taps lie
apart and channels side by side, ``(outputs, B, K*K, C_in)``, which is how one product makes them of the knowledge base,
and how one product takes them all at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..memory import scratch
from .arguments import ConvArguments
from .taps import as_images, gathered, scattered

__all__ = ["backward", "forward"]

FORWARD, BACKWARD = 40 << 20, 10 << 20  # bytes of kernels at a time; backward there are as many of their gradient
WIDTH = 16  # outputs that a product takes at once


def forward(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments) -> Tensor:
    """A part of the batch."""
    columns = _columns(x, weight.shape[-1], conv)
    y = x.new_empty(*columns.shape[:2], len(weight))
    for block, U in _blocks(weight, operator, FORWARD):
        y[:, :, block] = torch.bmm(columns, _kernels(U, operator).transpose(1, 2))
    return as_images(y, x, weight.shape[-1], conv)


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients to a part: to its images, to the knowledge base, and to its operators."""
    columns, rows = _columns(x, weight.shape[-1], conv), operator.flatten(0, 1)
    dy = dy.permute(0, 2, 3, 1).flatten(1, 2).contiguous()
    dcolumns = scratch("dcolumns", columns.shape, x).zero_() if needs_x else None
    dweight = weight.new_empty(len(weight), weight.shape[1], rows.shape[1])
    drows = torch.zeros_like(rows, dtype=torch.promote_types(rows.dtype, torch.float32))
    for block, U in _blocks(weight, operator, BACKWARD):
        of_block = dy[:, :, block]
        if dcolumns is not None:
            dcolumns.baddbmm_(of_block, _kernels(U, operator))
        dkernels = scratch("product", (len(U), *columns.shape[::2]), x)
        dkernels.transpose(0, 1).copy_(torch.bmm(of_block.transpose(1, 2), columns))
        dkernels = dkernels.view(len(U), len(rows), -1)
        dweight[block] = torch.bmm(rows.t().expand(len(U), -1, -1), dkernels).transpose(1, 2)
        drows += torch.bmm(U.transpose(1, 2), dkernels.transpose(1, 2)).sum(0, dtype=drows.dtype).t()
    dx = None
    if dcolumns is not None:
        apart = dcolumns.unflatten(2, (operator.shape[1], -1))
        dx = scattered(apart.unbind(2), x, weight.shape[-1], conv)
    return dx, dweight, drows.to(operator.dtype).view(operator.shape)


def _columns(x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """``(B, C, H, W)`` to ``(B, H_out*W_out, K*K*C)``."""
    return gathered(x, size, conv).flatten(1, 2).flatten(2)


def _blocks(weight: Tensor, operator: Tensor, budget: int) -> Iterator[tuple[slice, Tensor]]:
    """Which outputs come together, and their part of the knowledge base ``(outputs, C_in, K*K*K)``."""
    each = operator.shape[0] * operator.shape[1] * weight.shape[1] * weight.element_size()
    step = max(1, budget // each)
    step -= step % WIDTH if step > WIDTH else 0
    for start in range(0, len(weight), step):
        block = slice(start, start + step)
        yield block, weight[block].flatten(2)


def _kernels(U: Tensor, operator: Tensor) -> Tensor:
    """``(B, outputs, K*K*C_in)``, of which outputs lie furthest apart."""
    rows = operator.flatten(0, 1)
    kernels = scratch("kernels", (len(U), len(rows), U.shape[1]), operator)
    torch.bmm(rows.expand(len(U), -1, -1), U.transpose(1, 2), out=kernels)
    return kernels.view(len(U), len(operator), -1).transpose(0, 1)
