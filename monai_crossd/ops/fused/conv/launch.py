"""Launches of the kernels in ``kernels``: block sizes, by ``tables``, grids, and the tensors they write.

Every launch takes its block sizes as an argument too, for tuning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import le
from typing import Any

import torch
from torch import Tensor

from ..images.halves import Scaled
from ..launches.replay import launch
from ..sizes import block, cdiv, precision
from .boxes import convolve_boxes, suits_boxes
from .kernels import conv_kernel, wgrad_kernel
from .rows import kernels_from_rows, kernels_to_rows, rows_of, suits_rows
from .tables import BOXES, LAUNCHES, ROWS, Boxes, Launch, arithmetic

__all__ = ["convolve", "kernel_grad"]

PROGRAMS = 264  # two for each of 132 multiprocessors: below that, batch or pixels are split further
STEPS = 8  # least steps of a program of wgrad when pixels are split
FLAT = 16  # with fewer input channels taps and channels are one axis: tensor cores take 16 values at a time


def _chosen(kernel: str, channels: int, pixels: int, x: Tensor, flat: bool) -> Launch:
    """What the table says, for images ``x``.

    Steps are half as long where neighbors in the tile of ``x`` are not neighbors in memory: each value then keeps a
    register for its address.
    """
    blocks = _fitting(LAUNCHES[kernel, arithmetic(x.dtype)], channels, pixels)
    return blocks._replace(block_k=blocks.block_k // 2) if flat or x.stride(1) != 1 else blocks


def _fitting(rows: Sequence[tuple[Any, ...]], *sizes: int) -> Any:
    """What the first row holds that fits."""
    return next(blocks for *most, blocks in rows if all(map(le, sizes, most)))


def convolve(
    images: Scaled, kernels: Scaled, y: Tensor, groups: int, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool = False, blocks: Launch | Boxes | None = None,
) -> None:  # fmt: skip
    """Convolve every image with its own kernel and write into ``y``.

    Args:
        images: ``(B, C, H, W)`` of any strides, with factors or without.
        kernels: ``(B, K*K, C', C/groups)`` from ``mix``, in the dtype of ``images``, with a factor if those have some.
        y: ``(B, C', H', W')`` of any strides, written.
        groups: of the convolution.
        stride: in pixels, per axis.
        padding: in pixels, per axis.
        dilation: in pixels, per axis.
        transposed: whether ``images`` are a gradient of the output, and ``y`` is that of the input.
        blocks: block sizes, by default from ``BOXES`` where images can be read so, else from ``LAUNCHES``.
    """
    if y.numel() == 0:
        return
    (x, x_factor), (k, k_factor) = images, kernels
    size, (height, width) = math.isqrt(k.shape[1]), y.shape[2:]
    rows, red = y.shape[1] // groups, x.shape[1] // groups
    last = y.stride(1) == 1  # a box's values lie side by side there; else to write them takes longer than is won
    if blocks is None and red >= FLAT and last and suits_boxes(x, groups, stride):
        blocks = _fitting(BOXES, rows, height * width, rows * len(x))
    if isinstance(blocks, Boxes):
        return convolve_boxes(images, kernels, y, padding, dilation, transposed, blocks)
    steps = [
        every // math.gcd(every, apart) if transposed else 1 for every, apart in zip(stride, dilation, strict=True)
    ]
    classes = stride[0] * stride[1] if transposed else 1
    n_pix = cdiv(height, stride[0]) * cdiv(width, stride[1]) if transposed else height * width
    taps = cdiv(size, steps[0]) * cdiv(size, steps[1])  # of a class, at most
    flat = red < FLAT
    across, unit = size, 1
    if not transposed and suits_rows(red, dilation, groups):
        (x, unit), k = rows_of(x, size, stride, padding), kernels_to_rows(k, size)
        across, red, flat, stride, padding = 1, x.shape[1], False, (stride[0], 1), (0, 0)
    blocks = blocks or _chosen("conv", rows, n_pix, x, flat)
    block_m, block_n = block(blocks.block_m, rows), block(blocks.block_n, n_pix)
    block_k = block(blocks.block_k, red * taps if flat else red)
    launch(
        conv_kernel, (cdiv(rows, block_m) * cdiv(n_pix, block_n) * groups, x.shape[0], classes),
        x, k, x_factor, k_factor, y, rows, red, groups, height, width, x.shape[2], x.shape[3], *_strides(x, unit),
        *y.stride(), *stride, *padding, *dilation, *steps, K_H=size, K_W=across, UNIT=unit,
        TRANSPOSED=transposed, FLAT=flat, EVEN=not flat and rows % block_m == 0 == red % block_k,
        PRECISION=precision(x.dtype), BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip


def kernel_grad(
    images: Scaled, gradient: Scaled, size: int, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, blocks: Launch | None = None,
) -> Tensor:  # fmt: skip
    """Gradient to the kernel of every image, accumulated in float32.

    Args:
        images: ``(B, C_in, H, W)`` of any strides, with factors or without.
        gradient: ``(B, C_out, H_out, W_out)`` of any strides and in the same dtype, with factors if those have some.
        size: ``K``.
        stride: of the convolution, per axis.
        padding: of the convolution, per axis.
        dilation: of the convolution, per axis.
        groups: of the convolution.
        blocks: block sizes, by default from ``LAUNCHES``.

    Returns:
        ``(B, parts, K*K, C_out, C_in/groups)``, to be summed over ``parts`` of the pixels, of which images of few
        channels have one; in the dtype of ``images``, with factors in float32.
    """
    (x, x_factor), (dy, dy_factor) = images, gradient
    (batch, c_out, h_out, w_out), red, taps = dy.shape, x.shape[1] // groups, size * size
    rows, n_pix = c_out // groups, h_out * w_out
    flat, across, unit, channels, by_rows = red < FLAT, size, 1, red, suits_rows(red, dilation, groups)
    if by_rows:
        x, unit = rows_of(x, size, stride, padding)
        across, taps, red, stride, padding = 1, size, x.shape[1], (stride[0], 1), (0, 0)
        blocks = blocks or ROWS[arithmetic(x.dtype)]
    blocks = blocks or _chosen("wgrad", rows, n_pix, x, flat)
    block_m, block_n = block(blocks.block_m, rows), block(blocks.block_n, taps * red if flat else red)
    block_k = block(blocks.block_k, n_pix)
    columns = cdiv(taps * red, block_n) if flat else taps * cdiv(red, block_n)
    programs = columns * cdiv(rows, block_m) * groups
    parts = max(1, min(PROGRAMS // (programs * batch), n_pix // (STEPS * block_k)))
    share = cdiv(cdiv(n_pix, parts), block_k) * block_k
    parts = cdiv(n_pix, share)
    dtype = x.dtype if x_factor is None else torch.float32
    dk = torch.empty((batch, parts, taps, c_out, red), dtype=dtype, device=x.device)
    launch(
        wgrad_kernel, (programs, batch, parts),
        x, dy, x_factor, dy_factor, dk, rows, red, groups, n_pix, w_out, x.shape[2], x.shape[3], *_strides(x, unit),
        *dy.stride(), *stride, *padding, *dilation, share, parts, K_H=size, K_W=across, UNIT=unit, FLAT=flat,
        EVEN=not flat and rows % block_m == 0 == red % block_n, PRECISION=precision(x.dtype),
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    return kernels_from_rows(dk, size, channels)[:, None] if by_rows else dk


def _strides(x: Tensor, unit: int) -> tuple[int, int, int, int]:
    """Strides of ``x``, along both axes in units."""
    sb, sc, sh, sw = x.stride()
    return sb, sc, sh // unit, sw // unit
