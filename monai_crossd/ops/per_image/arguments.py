"""What a convolution is told, and the size of what it makes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["ConvArguments", "output_size", "transposed_size"]

Pair = tuple[int, int]


class ConvArguments(NamedTuple):
    """What a convolution is told, in pixels per axis."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    transposed: bool = False
    output_padding: Pair = (0, 0)
    groups: int = 1


def output_size(
    x: Tensor, size: int, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of a convolution's output, ``size`` being that of the kernel; it can be scripted."""
    rows = (x.shape[2] + 2 * padding[0] - dilation[0] * (size - 1) - 1) // stride[0] + 1
    columns = (x.shape[3] + 2 * padding[1] - dilation[1] * (size - 1) - 1) // stride[1] + 1
    return rows, columns


def transposed_size(x: Tensor, size: int, conv: ConvArguments) -> tuple[int, ...]:
    """Rows and columns of a transposed convolution's output."""
    axes = zip(x.shape[2:], conv.stride, conv.padding, conv.dilation, conv.output_padding, strict=True)
    return tuple((n - 1) * by - 2 * pad + apart * (size - 1) + more + 1 for n, by, pad, apart, more in axes)
