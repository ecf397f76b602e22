"""Convolution of small images by mixed columns: one product of matrices with the knowledge base for all images.

Where an image has few pixels its kernel is larger than the image, and kernels of a batch are what memory is busy with.
Mixed columns do without them. The product is a 1x1 convolution of torch's library, in the arithmetic that is allowed
for convolutions; ``columns_kernels`` has the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import columns_kernels as kernels
from .conv_launch import precision
from .replay import launch, repeated

__all__ = ["convolve_columns", "gradients_of_columns", "is_small"]

PIXELS = 64  # of an output image, at most; more make columns larger than kernels
BUDGET = 160 * 2**20  # bytes of columns held at once, except for one image's; larger batches run in parts
BLOCK_R = 128  # rows of a tile, of 32 values each
BLOCK = 1024  # values of ``dx`` of a program
PROGRAMS = 528  # four for each of 132 multiprocessors: as many shares as that takes, no more
_PLAIN = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)  # a convolution without stride, padding, dilation and groups


def is_small(U: Tensor, pixels: int, groups: int) -> bool:
    """Whether mixed columns of an image are less work than a kernel of its own.

    Counted for an H200: kernels cost ``9 C O`` numbers that cross memory some seven times, columns two thirds more
    operations of the faster product, and ``27 C P`` numbers that cross it five times.

    Args:
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``.
        pixels: of an output image.
        groups: of the convolution.
    """
    return groups == 1 and U.shape[2] in (2, 3) and pixels <= min(PIXELS, len(U) // 4)


def convolve_columns(
    x: Tensor, U: Tensor, M: Tensor, size: tuple[int, int], last: bool, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    """``y[b] = conv2d(x[b], U M[b])``.

    Args:
        x: ``(B, C_in, H, W)`` of any strides.
        U: knowledge base ``(C_out, C_in, K, K, K)``, contiguous.
        M: shift operators ``(B, K*K, K*K*K)``, float32, contiguous.
        size: rows and columns of an output image.
        last: whether ``y`` is channels_last, or else contiguous.
        stride: in pixels, per axis.
        padding: in pixels, per axis.
        dilation: in pixels, per axis.

    Returns:
        ``(B, C_out, H_out, W_out)`` in the dtype of ``x``.
    """
    geometry, weight = (*stride, *padding, *dilation), _as_1x1(U, x.dtype)
    found = [F.conv2d(_columns(x[part], M[part], U, size, geometry), weight) for part in _parts(x, U, size)]
    y = found[0] if len(found) == 1 else torch.cat(found)
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def gradients_of_columns(
    dy: Tensor, x: Tensor, U: Tensor, M: Tensor, dx: Tensor | None, need_weight: bool, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int],
) -> tuple[Tensor | None, list[tuple[slice, Tensor]]]:  # fmt: skip
    """Gradients of :func:`convolve_columns`; that to ``x`` is written into ``dx`` where given.

    Returns:
        the gradient to ``U`` if wanted, and for every part of the batch partial sums of that to ``M``, ``(shares,
        images, 1, K*K, K*K*K)``.
    """
    geometry, size, weight = (*stride, *padding, *dilation), (dy.shape[2], dy.shape[3]), _as_1x1(U, x.dtype)
    dy = dy.contiguous(memory_format=torch.channels_last)
    dU, found = None, []
    for part in _parts(x, U, size):
        z = _columns(x[part], M[part], U, size, geometry)
        dz, dweight, _ = torch.ops.aten.convolution_backward(
            dy[part], z, weight, None, *_PLAIN, [True, need_weight, False]
        )
        del z
        if need_weight:
            dU = dweight if dU is None else dU.float().add_(dweight)  # parts of 16 bits add up in 32
        dz = dz.contiguous(memory_format=torch.channels_last)
        found.append((part, _gradients(dz, x[part], M[part], None if dx is None else dx[part], U, geometry)))
    return None if dU is None else dU.to(U.dtype).view(U.shape), found


def _as_1x1(U: Tensor, dtype: torch.dtype) -> Tensor:
    return U.to(dtype).view(len(U), -1, 1, 1)


def _parts(x: Tensor, U: Tensor, size: tuple[int, int]) -> Iterator[slice]:
    """Parts of the batch whose columns stay below the budget, all of about the same size."""
    of_image = U[0].numel() * size[0] * size[1] * x.itemsize
    parts = -(-len(x) // max(1, min(BUDGET // of_image, 65535)))  # the most programs of a grid's second axis
    images = -(-len(x) // parts)
    return (slice(first, first + images) for first in range(0, len(x), images))


def _columns(x: Tensor, M: Tensor, U: Tensor, size: tuple[int, int], geometry: tuple[int, ...]) -> Tensor:
    """Mixed columns ``(B, C*K*K*K, H_out, W_out)``, channels_last, by one launch."""

    def launches(x: Tensor, M: Tensor) -> list[Tensor]:
        rows = size[0] * size[1] * x.shape[1]
        z = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        with torch.cuda.device_of(x):
            launch(
                kernels.columns_kernel, (-(-rows // BLOCK_R), len(x)), x, M, z, rows, x.shape[1], size[1],
                *x.shape[2:], *x.stride(), *geometry, **_blocks(x, U),
            )  # fmt: skip
        return [z]

    shape = (len(x), U[0].numel(), *size)
    return repeated(("columns", shape, geometry, *_kind(x)), launches, x, M)[0]


def _gradients(dz: Tensor, x: Tensor, M: Tensor, dx: Tensor | None, U: Tensor, geometry: tuple[int, ...]) -> Tensor:
    """Partial sums of the gradient to ``M``, and ``dx``, by two launches."""

    def launches(dz: Tensor, x: Tensor, M: Tensor, *dx: Tensor) -> list[Tensor]:
        (images, channels, *_), (y_h, y_w), taps = x.shape, dz.shape[2:], M.shape[1]
        rows = y_h * y_w * channels
        share = -(-rows // (BLOCK_R * max(1, PROGRAMS // images))) * BLOCK_R
        e = torch.empty((images, taps, rows) if dx else (0,), dtype=x.dtype, device=x.device)
        dm = torch.empty((-(-rows // share), images, 1, *M.shape[1:]), dtype=torch.float32, device=x.device)
        with torch.cuda.device_of(x):
            launch(
                kernels.columns_grad_kernel, (len(dm), images), x, M, dz, e, dm, rows, share, channels, y_w,
                *x.shape[2:], *x.stride(), *geometry, NEED_X=bool(dx), **_blocks(x, U),
            )  # fmt: skip
            for one in dx:
                values = one[0].numel()
                launch(
                    kernels.fold_kernel, (-(-values // BLOCK), images), e, one, values, rows, channels, y_h, y_w,
                    x.shape[3], *one.stride(), *geometry, K=U.shape[2], BLOCK=BLOCK,
                )  # fmt: skip
        return [dm]

    inputs = (dz, x, M) if dx is None else (dz, x, M, dx)
    key = ("columns' gradients", dz.shape, geometry, *_kind(x), None if dx is None else dx.stride())
    return repeated(key, launches, *inputs)[0]


def _blocks(x: Tensor, U: Tensor) -> dict[str, Any]:
    """What both kernels are told besides sizes: taps and depth are padded to what a matrix product takes."""
    size = U.shape[2]
    return {
        "K": size, "PRECISION": precision(x.dtype), "BLOCK_R": BLOCK_R, "BLOCK_T": 16,
        "BLOCK_S": max(16, 1 << (size**3 - 1).bit_length()),
    }  # fmt: skip


def _kind(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.dtype, precision(x.dtype)
