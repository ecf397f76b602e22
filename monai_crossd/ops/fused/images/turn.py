"""Images of any strides as channels_last, by a launch that is recorded with the others."""

from __future__ import annotations

import torch
from torch import Tensor

from ..language import jit, tl
from ..launches.replay import launch
from ..sizes import cdiv
from .halves import BOUNDS
from .halves_kernels import scale_of

__all__ = ["channels_last", "turned"]

BLOCK = 64  # channels and pixels of a tile: rows of 128 bytes at least, which is what memory hands out at once


@jit(counts=("W", "tiles_p", "tiles_c"))
def turn_kernel(
    x_ptr, y_ptr, largest, factor, times, P, C, W, tiles_p, tiles_c, sb, sc, sh, sw,
    FLAT: tl.constexpr, BLOCK: tl.constexpr, BOUNDS: tl.constexpr,
):  # fmt: skip
    """``y[b, p, c] = x[b, c, p]`` for a tile of an image; ``FLAT`` where one stride steps through all pixels.

    With ``largest``, partial maxima of all ``|x|``, ``y`` is scaled, and its factor stored; with ``times``, multiplied.
    """
    program = tl.program_id(0)
    b = (program // (tiles_p * tiles_c)).to(tl.int64)
    p = program // tiles_c % tiles_p * BLOCK + tl.arange(0, BLOCK)
    c = program % tiles_c * BLOCK + tl.arange(0, BLOCK)
    pixel = p * sw if FLAT else (p // W) * sh + (p % W) * sw
    inside = (c[:, None] < C) & (p[None, :] < P)
    tile = tl.load(x_ptr + b * sb + c[:, None] * sc + pixel[None, :], mask=inside, other=0.0)
    if largest is not None:
        scale, inverse = scale_of(tl.max(tl.load(largest + tl.arange(0, BOUNDS)), axis=0))
        tile = tile.to(tl.float32) * scale
        if program == 0:
            tl.store(factor, inverse)
    if times is not None:
        tile = tile.to(tl.float32) * tl.load(times)
    tile = tl.trans(tile).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + b * P * C + p[:, None] * C + c[None, :], tile, mask=tl.trans(inside))


def channels_last(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Images whose channels lie side by side: the other kernels take up to seven times as long to read others.

    Args:
        x: ``(B, C, H, W)`` of any strides.
        dtype: of what is returned, by default that of ``x``.

    Returns:
        ``x`` itself if it is so, else the same in new memory, by one launch.
    """
    dtype = dtype or x.dtype
    if x.stride(1) == 1 and x.dtype == dtype:
        return x
    if x.numel() == 0 or x[0].numel() >= 2**31:
        return x.to(dtype, memory_format=torch.channels_last)
    return turned(x, dtype)


def turned(
    x: Tensor, dtype: torch.dtype, *, largest: Tensor | None = None, factor: Tensor | None = None,
    times: Tensor | None = None, into: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A copy whose channels lie side by side, by one launch.

    Args:
        x: ``(B, C, H, W)`` of any strides.
        dtype: of what is returned, if it is new.
        largest: ``(BOUNDS,)``, maxima of parts of ``|x|``, where it is to be scaled as ``halves`` says.
        factor: ``(1,)``, written then.
        times: ``(1,)``, what ``x`` is multiplied with, if anything.
        into: where it is written, its values as they are to lie; by default new memory.
    """
    batch, channels, height, width = x.shape
    y = into
    if y is None:
        y = torch.empty(x.shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
    sb, sc, sh, sw = x.stride()
    tiles_p, tiles_c = cdiv(height * width, BLOCK), cdiv(channels, BLOCK)
    with torch.cuda.device_of(x):
        launch(
            turn_kernel, (batch * tiles_p * tiles_c,), x, y, largest, factor, times, height * width, channels, width,
            tiles_p, tiles_c, sb, sc, sh, sw, FLAT=sh == width * sw, BLOCK=BLOCK, BOUNDS=BOUNDS,
        )  # fmt: skip
    return y
