"""Launches of the kernels in ``conv_kernels``: block sizes, by ``conv_tables``, grids, and the tensors they write.

Every launch takes its block sizes as an argument too, for tuning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .conv_kernels import conv_kernel, mix_kernel, unmix_m_kernel, unmix_u_kernel, wgrad_kernel
from .conv_tables import ANY, LAUNCHES, MIX, ROWS, UNMIX, Launch
from .replay import launch
from .rows import kernels_from_rows, kernels_to_rows, rows_of, suits_rows

__all__ = [
    "LAUNCHES", "Launch", "block", "cdiv", "convolve", "image_numbers", "kernel_grad", "mix", "parts", "precision",
    "unmix_m", "unmix_u",
]  # fmt: skip

TILE = 4096  # values of U that mix keeps in registers: 128 rows of 32
PROGRAMS = 264  # two for each of 132 multiprocessors: below that, batch or pixels are split further
STEPS = 8  # least steps of a program of wgrad when pixels are split
FLAT = 16  # with fewer input channels taps and channels are one axis: tensor cores take 16 values at a time


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: next to 16-bit data in TF32, which is no coarser; else as cuDNN is allowed to."""
    if dtype != torch.float32:
        return "tf32"
    conv = getattr(torch.backends.cudnn, "conv", None)  # torch >= 2.9, where the older flag sets it too
    allowed = torch.backends.cudnn.allow_tf32 if conv is None else conv.fp32_precision == "tf32"
    return "tf32" if allowed else "ieee"


def _arithmetic(dtype: torch.dtype) -> str:
    """What the tables of block sizes go by."""
    return precision(dtype) if dtype == torch.float32 else "half"


def _of_pixels(dtype: torch.dtype) -> str:
    """The same for sums over pixels, for which TF32 is left to :func:`split_dot`."""
    return "split" if dtype == torch.float32 and precision(dtype) == "tf32" else precision(dtype)


def _chosen(kernel: str, channels: int, pixels: int, x: Tensor, flat: bool) -> Launch:
    """The first row of the table that fits, for images ``x``.

    Steps are half as long where neighbors in the tile of ``x`` are not neighbors in memory: each value then keeps a
    register for its address.
    """
    rows = LAUNCHES[kernel, _arithmetic(x.dtype)]
    blocks = next(blocks for most, most_pixels, blocks in rows if channels <= most and pixels <= most_pixels)
    return blocks._replace(block_k=blocks.block_k // 2) if flat or x.stride(1) != 1 else blocks


def block(most: int, size: int) -> int:
    """The power of two that covers ``size``, from 16, the least of a matrix product, to ``most``."""
    return max(16, min(most, 1 << (size - 1).bit_length()))


def cdiv(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def _mix_blocks(blocks: Launch, n: int, rows: int, depth: int) -> dict[str, int]:
    """Blocks of rows of U, of rows of M and of values of a row: all up to K = 4, then 32 at a time."""
    block_s = block(ANY, depth) if depth <= 64 else 32
    tile = TILE if depth <= 32 else TILE // 2  # longer rows keep addresses and sums in registers besides
    block_n = block(min(blocks.block_m, tile // block_s), n)
    return {"BLOCK_N": block_n, "BLOCK_R": block(blocks.block_k, rows), "BLOCK_S": block_s}


def parts(images: int, each: int, budget: int, multiple: int = 1) -> Iterator[slice]:
    """Parts of a batch of about the same size, which hold about ``budget`` numbers at most, or one image.

    Several parts start at multiples of ``multiple``. None has more images than a grid's second axis has programs.
    """
    most = min(max(1, budget // each), 65535 // multiple * multiple)
    size = cdiv(images, cdiv(images, most)) if images else 1
    if size < images:
        size = cdiv(size, multiple) * multiple
    return (slice(first, first + size) for first in range(0, images, size))


def image_numbers(U: Tensor) -> int:
    """What an image holds for a while: its kernel, or the gradient of that."""
    return U.numel() // U.shape[2]


def mix(
    U: Tensor, M: Tensor, dtype: torch.dtype, groups: int, transposed: bool = False, blocks: Launch | None = None
) -> Tensor:
    """``k[b, t] = U M[b, t]``, in the layout whose last axis the convolution sums over.

    Args:
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``, contiguous.
        M: shift operators ``(B, K*K, K*K*K)``, float32, contiguous.
        dtype: of the kernels.
        groups: of the convolution.
        transposed: for the gradient to the input.
        blocks: block sizes, by default ``MIX``.

    Returns:
        ``(B, K*K, C_out, C_in/groups)``, transposed ``(B, K*K, C_in, C_out/groups)``.
    """
    (batch, taps, depth), c_out, red = M.shape, U.shape[0], U.shape[1]
    n, rows, blocks = c_out * red, c_out // groups, blocks or MIX[_arithmetic(dtype)]
    sizes = _mix_blocks(blocks, n, batch * taps, depth)
    layout = (groups * red, rows) if transposed else (c_out, red)
    k = torch.empty((batch, taps, *layout), dtype=dtype, device=U.device)
    columns, block_r = cdiv(n, sizes["BLOCK_N"]), sizes["BLOCK_R"]
    share = cdiv(cdiv(batch * taps, block_r), max(1, 2 * PROGRAMS // columns)) * block_r
    launch(
        mix_kernel, (columns, cdiv(batch * taps, share)), U, M, k, n, batch * taps, share, rows, red,
        S=depth, TRANSPOSED=transposed, **sizes, PRECISION=precision(dtype), num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
    )  # fmt: skip
    return k


def unmix_u(M: Tensor, dk: Tensor, du: Tensor, add: bool, blocks: Launch | None = None) -> None:
    """``du = sum_b dk[b]^T M[b]``, the same in every run.

    Args:
        M: shift operators ``(B, K*K, K*K*K)``, float32, contiguous.
        dk: from ``kernel_grad``.
        du: in the shape of ``U``, contiguous, written.
        add: whether to add to what ``du`` holds.
        blocks: block sizes, by default ``UNMIX``.
    """
    (batch, taps, depth), n = M.shape, du.shape[0] * du.shape[1]
    rows, blocks = batch * dk.shape[1] * taps, blocks or _unmix_launch("u", n)
    block_n, sizes = block(blocks.block_m, n), _unmix_blocks(dk, M, blocks)
    launch(
        unmix_u_kernel, (cdiv(n, block_n), cdiv(depth, sizes["BLOCK_S"])), M, dk, du, rows, n, dk.shape[1],
        T=taps, ADD=add, BLOCK_N=block_n, **sizes,
    )  # fmt: skip


def unmix_m(U: Tensor, M: Tensor, dk: Tensor, blocks: Launch | None = None) -> Tensor:
    """``dM[b] = dk[b] U``, the same in every run.

    Args:
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``, contiguous.
        M: shift operators ``(B, K*K, K*K*K)``, for their shape.
        dk: from ``kernel_grad``.
        blocks: block sizes, by default ``UNMIX``.

    Returns:
        ``(shares, B, parts, K*K, K*K*K)`` in float32, to be summed over shares and parts.
    """
    (batch, taps, depth), n, parts = M.shape, U.shape[0] * U.shape[1], dk.shape[1]
    rows, blocks = batch * parts * taps, blocks or _unmix_launch("m", n)
    block_n, sizes = block(blocks.block_n, n), _unmix_blocks(dk, M, blocks)
    of_rows, of_depth = cdiv(rows, sizes["BLOCK_R"]), cdiv(depth, sizes["BLOCK_S"])
    share = cdiv(cdiv(n, cdiv(PROGRAMS, of_rows * of_depth)), block_n) * block_n
    dm = torch.empty((cdiv(n, share), batch, parts, taps, depth), dtype=torch.float32, device=U.device)
    launch(unmix_m_kernel, (of_rows, len(dm), of_depth), U, dk, dm, rows, n, share, BLOCK_N=block_n, **sizes)
    return dm


def _unmix_launch(kernel: str, n: int) -> Launch:
    return next(blocks for most, blocks in UNMIX[kernel] if n <= most)


def _unmix_blocks(dk: Tensor, M: Tensor, blocks: Launch) -> dict[str, Any]:
    """What both kernels are told besides their rows of ``U``."""
    batch, taps, depth = M.shape
    return {
        "S": depth, "BLOCK_R": block(blocks.block_k, batch * dk.shape[1] * taps), "BLOCK_S": block(32, depth),
        "PRECISION": precision(dk.dtype), "num_warps": blocks.num_warps, "num_stages": blocks.num_stages,
    }  # fmt: skip


def convolve(
    x: Tensor, k: Tensor, y: Tensor, groups: int, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool = False, blocks: Launch | None = None,
) -> None:  # fmt: skip
    """Convolve every image with its own kernel and write into ``y``.

    Args:
        x: ``(B, C, H, W)`` of any strides.
        k: ``(B, K*K, C', C/groups)`` from ``mix``.
        y: ``(B, C', H', W')`` of any strides, written.
        groups: of the convolution.
        stride: in pixels, per axis.
        padding: in pixels, per axis.
        dilation: in pixels, per axis.
        transposed: whether ``x`` is a gradient of the output and ``y`` that of the input, of the same convolution.
        blocks: block sizes, by default from ``LAUNCHES``.
    """
    if y.numel() == 0:
        return
    size, (height, width) = math.isqrt(k.shape[1]), y.shape[2:]
    rows, red = y.shape[1] // groups, x.shape[1] // groups
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
    launch(
        conv_kernel, (cdiv(rows, block_m) * cdiv(n_pix, block_n) * groups, x.shape[0], classes),
        x, k, y, rows, red, groups, height, width, x.shape[2], x.shape[3], *_strides(x, unit), *y.stride(),
        *stride, *padding, *dilation, *steps, K_H=size, K_W=across, UNIT=unit,
        TRANSPOSED=transposed, FLAT=flat, PRECISION=precision(x.dtype), BLOCK_M=block_m, BLOCK_N=block_n,
        BLOCK_K=block(blocks.block_k, red * taps if flat else red),
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip


def kernel_grad(
    x: Tensor, dy: Tensor, size: int, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    groups: int, blocks: Launch | None = None,
) -> Tensor:  # fmt: skip
    """Gradient to the kernel of every image, accumulated in float32 and stored in the dtype of ``x``.

    Args:
        x: ``(B, C_in, H, W)`` of any strides.
        dy: ``(B, C_out, H_out, W_out)`` of any strides.
        size: ``K``.
        stride: of the convolution, per axis.
        padding: of the convolution, per axis.
        dilation: of the convolution, per axis.
        groups: of the convolution.
        blocks: block sizes, by default from ``LAUNCHES``.

    Returns:
        ``(B, parts, K*K, C_out, C_in/groups)``, to be summed over ``parts`` of the pixels.
    """
    (batch, c_out, h_out, w_out), red, taps = dy.shape, x.shape[1] // groups, size * size
    rows, n_pix = c_out // groups, h_out * w_out
    flat, across, unit, channels, by_rows = red < FLAT, size, 1, red, suits_rows(red, dilation, groups)
    if by_rows:
        x, unit = rows_of(x, size, stride, padding)
        across, taps, red, stride, padding = 1, size, x.shape[1], (stride[0], 1), (0, 0)
        blocks = blocks or ROWS[_arithmetic(x.dtype)]
    blocks = blocks or _chosen("wgrad", rows, n_pix, x, flat)
    block_m, block_n = block(blocks.block_m, rows), block(blocks.block_n, taps * red if flat else red)
    block_k = block(blocks.block_k, n_pix)
    columns = cdiv(taps * red, block_n) if flat else taps * cdiv(red, block_n)
    programs = columns * cdiv(rows, block_m) * groups
    parts = max(1, min(PROGRAMS // (programs * batch), n_pix // (STEPS * block_k)))
    share = cdiv(cdiv(n_pix, parts), block_k) * block_k
    parts = cdiv(n_pix, share)
    dk = torch.empty((batch, parts, taps, c_out, red), dtype=x.dtype, device=x.device)
    launch(
        wgrad_kernel, (programs, batch, parts),
        x, dy, dk, rows, red, groups, n_pix, w_out, x.shape[2], x.shape[3], *_strides(x, unit), *dy.stride(),
        *stride, *padding, *dilation, share, parts, K_H=size, K_W=across, UNIT=unit, FLAT=flat,
        PRECISION=_of_pixels(x.dtype),
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    return kernels_from_rows(dk, size, channels) if by_rows else dk


def _strides(x: Tensor, unit: int) -> tuple[int, int, int, int]:
    """Strides of ``x``, along both axes in units."""
    sb, sc, sh, sw = x.stride()
    return sb, sc, sh // unit, sw // unit
