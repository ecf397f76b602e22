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
    padded = scratch("padded", _padded_shape(x, conv), x).zero_()
    _inside(padded, x, conv).copy_(x)
    read = _read(padded, x, size, conv)
    if not innermost:
        return scratch("columns", read.shape, x).copy_(read).flatten(3, 4)
    shape = (*read.shape[:3], x.shape[1], size * size)
    return torch.stack(_taps(read), dim=4, out=scratch("columns", shape, x))


def scattered(columns: Iterable[Tensor], x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """The gradient to images ``x`` from those to what every tap reads, pixels and channels of each image."""
    padded = x.new_zeros(_padded_shape(x, conv))
    for read, gradient in zip(_taps(_read(padded, x, size, conv)), columns, strict=True):
        read += gradient.view(read.shape)
    return _inside(padded, x, conv).contiguous(memory_format=memory_format(x))


def as_images(pixels: Tensor, x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """``(B, C, H_out, W_out)`` in the memory format of ``x`` from pixels of all channels, one after the other."""
    y = pixels.view(len(x), *output_size(x, size, *conv[:3]), -1).permute(0, 3, 1, 2)
    return y.contiguous(memory_format=memory_format(x))


def _padded_shape(x: Tensor, conv: ConvArguments) -> tuple[int, ...]:
    """Of images ``x`` with their edges, channels last."""
    (b, channels, height, width), (pad_h, pad_w) = x.shape, conv.padding
    return b, height + 2 * pad_h, width + 2 * pad_w, channels


def _inside(padded: Tensor, x: Tensor, conv: ConvArguments) -> Tensor:
    """Where images ``x`` lie within their edges: a view ``(B, C, H, W)``."""
    (height, width), (pad_h, pad_w) = x.shape[2:], conv.padding
    return padded[:, pad_h : pad_h + height, pad_w : pad_w + width].permute(0, 3, 1, 2)


def _read(padded: Tensor, x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """What a kernel reads of images ``x`` with their edges: a view ``(B, H_out, W_out, K, K, C)``."""
    of_image, of_row, of_pixel, _ = padded.stride()
    (stride_h, stride_w), (dilation_h, dilation_w) = conv.stride, conv.dilation
    steps = of_image, of_row * stride_h, of_pixel * stride_w, of_row * dilation_h, of_pixel * dilation_w, 1
    return padded.as_strided((len(x), *output_size(x, size, *conv[:3]), size, size, x.shape[1]), steps)


def _taps(read: Tensor) -> list[Tensor]:
    """What each tap reads, ``(B, H_out, W_out, C)``."""
    return [tap for row in read.unbind(3) for tap in row.unbind(3)]


def memory_format(x: Tensor) -> torch.memory_format:
    """That of the results of images."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
