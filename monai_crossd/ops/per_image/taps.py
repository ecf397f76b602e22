"""What the taps of a kernel read of images, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..memory import scratch
from .arguments import ConvArguments, output_size

__all__ = ["as_images", "gathered", "memory_format", "scattered"]


def gathered(x: Tensor, size: int, conv: ConvArguments, axis: int) -> Tensor:
    """Columns of images ``(B, C, H, W)``: ``(B, H_out, W_out, C)`` with the taps as one axis more."""
    (pad_h, pad_w), image = conv.padding, output_size(x, size, *conv[:3])
    padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h)).permute(0, 2, 3, 1).contiguous()
    shape = [len(x), *image, x.shape[1]]
    shape.insert(axis, size * size)
    return torch.stack(list(_taps(padded, size, conv, image)), dim=axis, out=scratch("columns", tuple(shape), x))


def scattered(columns: Iterable[Tensor], x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """The gradient to images ``x`` from those to what every tap reads, pixels and channels of each image."""
    (b, channels, height, width), (pad_h, pad_w), image = x.shape, conv.padding, output_size(x, size, *conv[:3])
    padded = x.new_zeros(b, height + 2 * pad_h, width + 2 * pad_w, channels)
    for read, gradient in zip(_taps(padded, size, conv, image), columns, strict=True):
        read += gradient.view(b, *image, channels) if gradient.dim() == 3 else gradient
    dx = padded[:, pad_h : pad_h + height, pad_w : pad_w + width].permute(0, 3, 1, 2)
    return dx.contiguous(memory_format=memory_format(x))


def as_images(pixels: Tensor, x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """``(B, C, H_out, W_out)`` in the memory format of ``x`` from pixels of all channels, one after the other."""
    y = pixels.view(len(x), *output_size(x, size, *conv[:3]), -1).permute(0, 3, 1, 2)
    return y.contiguous(memory_format=memory_format(x))


def _taps(padded: Tensor, size: int, conv: ConvArguments, image: tuple[int, int]) -> Iterator[Tensor]:
    """What every tap of a kernel reads of images ``(B, H, W, C)``: views ``(B, H_out, W_out, C)``."""
    (stride_h, stride_w), (dilation_h, dilation_w) = conv.stride, conv.dilation
    for i in range(size):
        rows = slice(i * dilation_h, i * dilation_h + (image[0] - 1) * stride_h + 1, stride_h)
        for j in range(size):
            first = j * dilation_w
            yield padded[:, rows, first : first + (image[1] - 1) * stride_w + 1 : stride_w]


def memory_format(x: Tensor) -> torch.memory_format:
    """That of the results of images."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
