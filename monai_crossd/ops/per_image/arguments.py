"""What a convolution is told, and the size of what it makes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["ConvArguments", "output_size"]

Pair = tuple[int, int]


class ConvArguments(NamedTuple):
    """What a convolution is told, in pixels per axis."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    transposed: bool = False
    output_padding: Pair = (0, 0)
    groups: int = 1


def output_size(x: Tensor, size: int, conv: ConvArguments) -> tuple[int, int]:
    """Rows and columns of a convolution's output."""
    rows, columns = (
        (x.shape[2 + axis] + 2 * conv.padding[axis] - conv.dilation[axis] * (size - 1) - 1) // conv.stride[axis] + 1
        for axis in (0, 1)
    )
    return rows, columns
