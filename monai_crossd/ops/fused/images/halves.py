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

from ..availability import INTERPRETED
from ..launches.replay import launch
from ..sizes import cdiv, precision
from . import halves_kernels as kernels

__all__ = ["BOUNDS", "PARTS", "Ranges", "Scaled", "halved", "is_halved", "largest", "measure", "measured", "shapes"]

# the interpreter runs one program after the other
PARTS = 4 if INTERPRETED else 64  # partial maxima of an image, which all that follows reads
BOUNDS = 8 if INTERPRETED else 512  # the same of all kernels
BLOCK = 1024  # values of a program at once


class Ranges(NamedTuple):
    """What scales go by, in float32. Infinite and NaN are left out."""

    images: Tensor  # (B, PARTS), maxima of |x| of parts of an image
    kernels: Tensor  # (2, BOUNDS), maxima of parts of |U| and of the sums of |M| along its last axis


class Scaled(NamedTuple):
    """What is multiplied."""

    values: Tensor
    factor: Tensor | None = None  # (B,) or (1,) in float32: that many times the values are meant; without it, they are


def is_halved(dtype: torch.dtype) -> bool:
    """Whether convolutions multiply values of this dtype in TF32."""
    return dtype == torch.float32 and precision(dtype) == "tf32"


def measured(x: Tensor, U: Tensor, M: Tensor | None) -> Ranges | None:
    """The ranges of images and kernels if they are multiplied in TF32, and there are any, by two launches.

    Args:
        x: ``(B, C, H, W)`` of any strides.
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``, contiguous.
        M: shift operators ``(B, K*K, K*K*K)``, float32, contiguous or of ``aligned``; ``None`` where none are needed.
    """
    if not is_halved(x.dtype) or x.numel() == 0:
        return None
    ranges = Ranges(*(torch.empty(shape, dtype=torch.float32, device=x.device) for shape in shapes(len(x))))
    measure(x, U, M, ranges)
    return ranges


def shapes(images: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of both ranges of so many images."""
    return (images, PARTS), (2, BOUNDS)


def measure(x: Tensor, U: Tensor, M: Tensor | None, ranges: Ranges) -> None:
    """Write into ``ranges``; the rest as of :func:`measured`."""
    rows, pitch = (0, 1) if M is None else (M.shape[0] * M.shape[1], M.stride(1))
    block_s = 1 << (pitch - 1).bit_length()
    with torch.cuda.device_of(x):
        _measure_images(x, ranges.images)
        launch(
            kernels.bounds_kernel, (BOUNDS,), U, M, ranges.kernels, U.numel(), _share(U.numel(), BOUNDS), rows,
            cdiv(rows, BOUNDS), PITCH=pitch, BLOCK=4 * BLOCK, BLOCK_R=max(1, BLOCK // block_s), BLOCK_S=block_s,
        )  # fmt: skip


def largest(x: Tensor) -> Tensor:
    """Those of the ranges of images by a launch."""
    found = torch.empty(shapes(len(x))[0], dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _measure_images(x, found)
    return found


def _measure_images(x: Tensor, found: Tensor) -> None:
    values = x[0].numel()
    launch(
        kernels.largest_kernel, (PARTS * len(x),), x, found, values, _share(values, PARTS), x.shape[1], x.shape[3],
        *x.stride(), DENSE=_is_dense(x), BLOCK=BLOCK, PARTS=PARTS,
    )  # fmt: skip


def _share(values: int, parts: int) -> int:
    """Values of a part, so that each starts where memory is read in whole lines."""
    return cdiv(values, parts * 16) * 16


def _is_dense(x: Tensor) -> bool:
    """Whether the values of an image follow one another as in a channels_last one."""
    (_, channels, height, width), (_, sc, sh, sw) = x.shape, x.stride()
    return sc == 1 and (width == 1 or sw == channels) and (height == 1 or sh == width * channels)


def halved(x: Tensor, largest: Tensor | None) -> Scaled:
    """Images as convolutions multiply them.

    Args:
        x: ``(B, C, H, W)`` of any strides.
        largest: ``(B, PARTS)`` of their ranges; ``None`` where they are taken as they are.

    Returns:
        ``x`` itself, or float16 that is channels_last, with the factor of every image, by a launch.
    """
    if largest is None:
        return Scaled(x)
    y = torch.empty(x.shape, dtype=torch.float16, device=x.device, memory_format=torch.channels_last)
    factor, values = torch.empty((len(x),), dtype=torch.float32, device=x.device), x[0].numel()
    blocks = cdiv(values, 4 * BLOCK)
    with torch.cuda.device_of(x):
        launch(
            kernels.halve_kernel, (blocks * len(x),), x, y, largest, factor, values, blocks, x.shape[1], x.shape[3],
            *x.stride(), DENSE=_is_dense(x), BLOCK=4 * BLOCK, PARTS=PARTS,
        )  # fmt: skip
    return Scaled(y, factor)
