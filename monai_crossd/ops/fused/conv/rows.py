"""Images of few channels as images of rows, on which a convolution has one tap for each row of its kernel.

Where an image has one to four channels, the values that a matrix product sums over lie apart, and every one of them is
looked for by itself. But those of a row of the kernel, ``K`` pixels with their channels, lie side by side in an image
that is channels_last and padded. Such a row is taken for the channels of a pixel, so that a ``K x K`` convolution of
``C`` channels becomes a ``K x 1`` one of ``R >= K C``, with rows that overlap in memory.

What a row holds behind its ``K`` pixels is of pixels further on and is multiplied with zero: an infinite pixel there
makes NaN. In a layer it does so anyway, as its predictor reads the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..launches.replay import launch
from ..sizes import cdiv
from . import rows_kernels as kernels

__all__ = ["Rows", "kernels_from_rows", "kernels_to_rows", "rows_of", "suits_rows"]

CHANNELS = 4  # at most
BLOCK = 1024  # values of a program
ALIGNED = 16  # values: rows start at multiples of it, and have so many


class Rows(NamedTuple):
    """Images as rows."""

    images: Tensor  # (B, R, H, W_out), a view whose rows overlap; H is padded
    unit: int  # values that a step along both axes is a multiple of


def suits_rows(channels: int, dilation: Sequence[int], groups: int) -> bool:
    """Whether a convolution can be done by rows."""
    return channels <= CHANNELS and groups == 1 and dilation[0] == dilation[1] == 1


def rows_of(x: Tensor, size: int, stride: Sequence[int], padding: Sequence[int]) -> Rows:
    """Images ``(B, C, H, W)`` of any strides, copied and padded, as rows of ``size`` pixels every ``stride[1]``."""
    batch, channels, height, width = x.shape
    each, length = _each(channels), _length(channels, size)
    out_h, out_w = height + 2 * padding[0], width + 2 * padding[1]
    windows = (out_w - size) // stride[1] + 1
    pitch = _up(max(out_w, (windows - 1) * stride[1] + length // each) * each, ALIGNED)
    copy = torch.empty((batch, out_h, pitch), dtype=x.dtype, device=x.device)
    values = out_h * pitch
    with torch.cuda.device_of(x):
        launch(
            kernels.pad_kernel, (cdiv(values, BLOCK), batch), x, copy, channels, height, width, *x.stride(),
            *padding, pitch // each, values, C=each, BLOCK=BLOCK,
        )  # fmt: skip
    step = stride[1] * each
    images = copy.as_strided((batch, length, out_h, windows), (values, 1, pitch, step))
    return Rows(images, math.gcd(step, ALIGNED))


def kernels_to_rows(k: Tensor, size: int) -> Tensor:
    """Kernels ``(B, K*K, C_out, C)`` as ``(B, K, C_out, R)``, with zeros between and behind."""
    batch, _, c_out, channels = k.shape
    out = torch.empty((batch, size, c_out, _length(channels, size)), dtype=k.dtype, device=k.device)
    _spread(k, out, size)
    return out


def kernels_from_rows(rows: Tensor, size: int, channels: int) -> Tensor:
    """``(B, parts, K, C_out, R)`` back as ``(B, K*K, C_out, C)``, summed over the parts."""
    batch, parts, _, c_out, _ = rows.shape
    k = torch.empty((batch, size * size, c_out, channels), dtype=rows.dtype, device=rows.device)
    _spread(k, rows, size, parts)
    return k


def _spread(k: Tensor, rows: Tensor, size: int, parts: int = 0) -> None:
    """To rows, or back from so many parts of them."""
    channels, values = k.shape[3], (k if parts else rows)[0].numel()
    with torch.cuda.device_of(k):
        launch(
            kernels.spread_kernel, (cdiv(values, BLOCK), len(k)), k, rows, k.shape[2], channels, parts, values,
            BACK=parts > 0, K=size, C=_each(channels), R=rows.shape[-1], BLOCK=BLOCK,
        )  # fmt: skip


def _each(channels: int) -> int:
    """Values of a pixel: a power of two."""
    return 1 << (channels - 1).bit_length()


def _length(channels: int, size: int) -> int:
    """Values of a row."""
    return _up(size * _each(channels), ALIGNED)


def _up(number: int, multiple: int) -> int:
    return cdiv(number, multiple) * multiple
