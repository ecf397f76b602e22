"""float32 as float16 with powers of two beside it: how these convolutions multiply where TF32 is allowed.

TF32 keeps 11 bits of what it multiplies, and so does float16, which a GPU multiplies twice as fast, moves in half the
time, and takes with any axis side by side, as sums over pixels want it. What float16 lacks is range: so every image,
and the kernels of a batch, are scaled by the power of two that brings their largest value to 2**14. Values 2**28 times
smaller than that begin to lose bits, which in TF32 they would keep; those 2**39 times smaller become zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import halves_kernels as kernels
from .replay import launch
from .sizes import cdiv, precision

__all__ = ["Scaled", "bounds", "halved", "is_halved", "stored"]

PARTS = 64  # partial results of an image, which all that follows reads
BLOCK = 4096  # values of a program at once


class Scaled(NamedTuple):
    """What is multiplied."""

    values: Tensor
    factor: Tensor | None = None  # (B,) or (1,) in float32: that many times the values are meant; without it, they are


def is_halved(dtype: torch.dtype) -> bool:
    """Whether convolutions multiply values of this dtype in TF32."""
    return dtype == torch.float32 and precision(dtype) == "tf32"


def stored(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which convolutions multiply values of this one."""
    return torch.float16 if is_halved(dtype) else dtype


def halved(x: Tensor) -> Scaled:
    """Images as convolutions multiply them, by two launches where they are multiplied in TF32.

    Args:
        x: ``(B, C, H, W)`` of any strides.

    Returns:
        ``x`` itself, or float16 that is channels_last, with the factor of every image.
    """
    if not is_halved(x.dtype):
        return Scaled(x)
    batch, channels, height, width = x.shape
    values = channels * height * width
    y = torch.empty(x.shape, dtype=torch.float16, device=x.device, memory_format=torch.channels_last)
    share = cdiv(cdiv(values, PARTS), BLOCK) * BLOCK
    largest = torch.empty((batch, cdiv(values, share)), dtype=torch.float32, device=x.device)
    factor = torch.empty((batch,), dtype=torch.float32, device=x.device)
    sb, sc, sh, sw = x.stride()
    dense = sc == 1 and (width == 1 or sw == channels) and (height == 1 or sh == width * channels)
    place = {"DENSE": dense, "BLOCK": BLOCK}
    with torch.cuda.device_of(x):
        launch(
            kernels.largest_kernel, (largest.shape[1], batch), x, largest, values, share, channels, width, sb, sc, sh,
            sw, **place,
        )  # fmt: skip
        launch(
            kernels.halve_kernel, (cdiv(values, BLOCK), batch), x, y, largest, factor, values, largest.shape[1],
            channels, width, sb, sc, sh, sw, **place, PARTS=PARTS,
        )  # fmt: skip
    return Scaled(y, factor)


def bounds(U: Tensor, M: Tensor) -> Tensor:
    """Partial maxima of ``|U|`` and of the sums of ``|M|`` along its last axis, ``(2, PARTS)``, by a launch.

    Their product bounds every value that ``M U`` has. Infinite and NaN are left out.
    """
    rows, depth = M.shape[0] * M.shape[1], M.shape[2]
    found = torch.empty((2, PARTS), dtype=torch.float32, device=U.device)
    block_s = 1 << (depth - 1).bit_length()
    with torch.cuda.device_of(U):
        launch(
            kernels.bounds_kernel, (PARTS,), U, M, found, U.numel(), cdiv(U.numel(), PARTS), rows, cdiv(rows, PARTS),
            S=depth, BLOCK=BLOCK, BLOCK_R=max(1, BLOCK // 4 // block_s), BLOCK_S=block_s,
        )  # fmt: skip
    return found
