"""What the taps of a kernel read of images, and the way back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..memory import scratch
from .arguments import ConvArguments, output_size

__all__ = ["as_images", "gathered", "memory_format", "scattered"]


def gathered(x: Tensor, size: int, conv: ConvArguments, innermost: bool = False) -> Tensor:
    """Columns of images ``(B, C, H, W)``: ``(B, H_out, W_out, K*K, C)``, or the taps ``innermost``."""
    b, channels, height, width = x.shape
    pad_h, pad_w = conv.padding
    padded = scratch("padded", (b, height + 2 * pad_h, width + 2 * pad_w, channels), x).zero_()
    padded[:, pad_h : pad_h + height, pad_w : pad_w + width] = x.permute(0, 2, 3, 1)
    read = _read(padded, size, conv, output_size(x, size, *conv[:3]))
    if not innermost:
        return scratch("columns", tuple(read.shape), x).copy_(read).flatten(3, 4)
    shape = (*read.shape[:3], channels, size * size)
    return torch.stack(_taps(read), dim=4, out=scratch("columns", shape, x))


def scattered(columns: Iterable[Tensor], x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """The gradient to images ``x`` from those to what every tap reads, pixels and channels of each image."""
    (b, channels, height, width), (pad_h, pad_w), image = x.shape, conv.padding, output_size(x, size, *conv[:3])
    padded = x.new_zeros(b, height + 2 * pad_h, width + 2 * pad_w, channels)
    for read, gradient in zip(_taps(_read(padded, size, conv, image)), columns, strict=True):
        read += gradient.view(b, *image, channels) if gradient.dim() == 3 else gradient
    dx = padded[:, pad_h : pad_h + height, pad_w : pad_w + width].permute(0, 3, 1, 2)
    return dx.contiguous(memory_format=memory_format(x))


def as_images(pixels: Tensor, x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """``(B, C, H_out, W_out)`` in the memory format of ``x`` from pixels of all channels, one after the other."""
    y = pixels.view(len(x), *output_size(x, size, *conv[:3]), -1).permute(0, 3, 1, 2)
    return y.contiguous(memory_format=memory_format(x))


def _read(padded: Tensor, size: int, conv: ConvArguments, image: tuple[int, int]) -> Tensor:
    """What a kernel reads of images ``(B, H, W, C)``, contiguous: a view ``(B, H_out, W_out, K, K, C)``."""
    (of_image, of_row, of_pixel, _), (stride_h, stride_w), (dilation_h, dilation_w) = (
        padded.stride(), conv.stride, conv.dilation,
    )  # fmt: skip
    steps = of_image, of_row * stride_h, of_pixel * stride_w, of_row * dilation_h, of_pixel * dilation_w, 1
    return padded.as_strided((len(padded), *image, size, size, padded.shape[3]), steps)


def _taps(read: Tensor) -> list[Tensor]:
    """What each tap reads, ``(B, H_out, W_out, C)``."""
    return [tap for row in read.unbind(3) for tap in row.unbind(3)]


def memory_format(x: Tensor) -> torch.memory_format:
    """That of the results of images."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
