"""Launches of the kernels in ``mix_kernels``. Every launch takes its block sizes as an argument too, for tuning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..images.halves import BOUNDS, Scaled
from ..launches.replay import launch
from ..sizes import block, cdiv, precision
from .mix_kernels import mix_kernel, unmix_m_kernel, unmix_u_kernel
from .tables import ANY, MIX, UNMIX, Launch, arithmetic

__all__ = ["empty_weights", "image_numbers", "mix", "unmix_m", "unmix_u"]

TILE = 4096  # values of U that mix keeps in registers: 128 rows of 32
PROGRAMS = 264  # two for each of 132 multiprocessors


def _mix_blocks(blocks: Launch, n: int, rows: int, depth: int) -> dict[str, int]:
    """Blocks of rows of U, of rows of M and of values of a row: all up to K = 4, then 32 at a time."""
    block_s = block(ANY, depth) if depth <= 64 else 32
    tile = TILE if depth <= 32 else TILE // 2  # longer rows keep addresses and sums in registers besides
    block_n = block(min(blocks.block_m, tile // block_s), n)
    return {"BLOCK_N": block_n, "BLOCK_R": block(blocks.block_k, rows), "BLOCK_S": block_s}


def image_numbers(U: Tensor) -> int:
    """What an image holds for a while: its kernel, or the gradient of that."""
    return U.numel() // U.shape[2]


def empty_weights(shape: tuple[int, int, int, int], last: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kernels ``(B, K*K, C', C/groups)`` that lie as torch's library takes weights, channels_last or not."""
    batch, taps, rows, red = shape
    if last:
        return torch.empty((batch, rows, taps, red), dtype=dtype, device=device).transpose(1, 2)
    return torch.empty((batch, rows, red, taps), dtype=dtype, device=device).permute(0, 3, 1, 2)


def mix(
    U: Tensor, M: Tensor, dtype: torch.dtype, groups: int, transposed: bool = False, bounds: Tensor | None = None,
    blocks: Launch | None = None, last: bool | None = None,
) -> Scaled:  # fmt: skip
    """``k[b, t] = U M[b, t]``, in the layout whose last axis the convolution sums over.

    Args:
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``, contiguous.
        M: shift operators ``(B, K*K, K*K*K)``, float32, contiguous or of ``aligned``.
        dtype: of the kernels, if they have no bounds.
        groups: of the convolution.
        transposed: for the gradient to the input.
        bounds: those of ``Ranges``, for kernels as scaled float16.
        blocks: block sizes, by default ``MIX``.
        last: for torch's library, laid out by :func:`empty_weights`, and taps in reverse order where they are
            transposed; by default contiguous in the shape below.

    Returns:
        ``(B, K*K, C_out, C_in/groups)``, transposed ``(B, K*K, C_in, C_out/groups)``; with bounds also one factor.
    """
    (batch, taps, depth), c_out, red = M.shape, U.shape[0], U.shape[1]
    dtype = dtype if bounds is None else torch.float16
    n, rows, blocks = c_out * red, c_out // groups, blocks or MIX[arithmetic(dtype)]
    sizes = _mix_blocks(blocks, n, batch * taps, depth)
    shape = (batch, taps, *((groups * red, rows) if transposed else (c_out, red)))
    if last is None:
        k = torch.empty(shape, dtype=dtype, device=U.device)
    else:
        k = empty_weights(shape, last, dtype, U.device)
    factor = None if bounds is None else torch.empty((1,), dtype=torch.float32, device=U.device)
    columns, block_r = cdiv(n, sizes["BLOCK_N"]), sizes["BLOCK_R"]
    share = cdiv(cdiv(batch * taps, block_r), max(1, 2 * PROGRAMS // columns)) * block_r
    launch(
        mix_kernel, (columns, cdiv(batch * taps, share)), U, M, k, bounds, factor, n, batch * taps, share, rows,
        red, **_layout(k, last is not None), S=depth, PITCH=M.stride(1), TRANSPOSED=transposed, BOUNDS=BOUNDS, **sizes,
        PRECISION=precision(dtype), num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    return Scaled(k, factor)


def _layout(k: Tensor, library: bool) -> dict[str, Any]:
    """What kernels are told of how ``k`` lies; ones where it is contiguous, so that they are compiled once."""
    inner, step_t, step_c = (k.shape[-1], k.stride(-3), k.stride(-1)) if library else (1, 1, 1)
    return {"inner": inner, "step_t": step_t, "step_c": step_c, "T": k.shape[-3], "LIBRARY": library}


def unmix_u(M: Tensor, dk: Tensor, du: Tensor, add: bool, blocks: Launch | None = None) -> None:
    """``du = sum_b dk[b]^T M[b]``, the same in every run.

    Args:
        M: shift operators ``(B, K*K, K*K*K)``, float32, contiguous or of ``aligned``.
        dk: from ``kernel_grad``, or of ``empty_weights``.
        du: in the shape of ``U``, contiguous, written.
        add: whether to add to what ``du`` holds.
        blocks: block sizes, by default ``UNMIX``.
    """
    (batch, taps, depth), n = M.shape, du.shape[0] * du.shape[1]
    rows, blocks = batch * dk.shape[1] * taps, blocks or _unmix_launch("u", dk, n)
    block_n, sizes = block(blocks.block_m, n), _unmix_blocks(dk, M, blocks)
    launch(
        unmix_u_kernel, (cdiv(n, block_n), cdiv(depth, sizes["BLOCK_S"])), M, dk, du, rows, n, dk.shape[1],
        PITCH=M.stride(1), ADD=add, BLOCK_N=block_n, **sizes,
    )  # fmt: skip


def unmix_m(U: Tensor, M: Tensor, dk: Tensor, blocks: Launch | None = None) -> Tensor:
    """``dM[b] = dk[b] U``, the same in every run.

    Args:
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``, contiguous.
        M: shift operators ``(B, K*K, K*K*K)``, for their shape.
        dk: from ``kernel_grad``, or of ``empty_weights``.
        blocks: block sizes, by default ``UNMIX``.

    Returns:
        ``(shares, B, parts, K*K, K*K*K)`` in float32, to be summed over shares and parts.
    """
    (batch, taps, depth), n, parts = M.shape, U.shape[0] * U.shape[1], dk.shape[1]
    rows, blocks = batch * parts * taps, blocks or _unmix_launch("m", dk, n)
    block_n, sizes = block(blocks.block_n, n), _unmix_blocks(dk, M, blocks)
    of_rows, of_depth = cdiv(rows, sizes["BLOCK_R"]), cdiv(depth, sizes["BLOCK_S"])
    share = cdiv(cdiv(n, cdiv(PROGRAMS, of_rows * of_depth)), block_n) * block_n
    dm = torch.empty((cdiv(n, share), batch, parts, taps, depth), dtype=torch.float32, device=U.device)
    launch(unmix_m_kernel, (of_rows, len(dm), of_depth), U, dk, dm, rows, n, share, BLOCK_N=block_n, **sizes)
    return dm


def _unmix_launch(kernel: str, dk: Tensor, n: int) -> Launch:
    return next(blocks for most, blocks in UNMIX[kernel, dk.itemsize] if n <= most)


def _unmix_blocks(dk: Tensor, M: Tensor, blocks: Launch) -> dict[str, Any]:
    """What both kernels are told besides their rows of ``U``."""
    batch, taps, depth = M.shape
    return {
        **_layout(dk, not dk.is_contiguous()), "S": depth,
        "BLOCK_R": block(blocks.block_k, batch * dk.shape[1] * taps), "BLOCK_S": block(32, depth),
        "PRECISION": precision(dk.dtype), "num_warps": blocks.num_warps, "num_stages": blocks.num_stages,
    }  # fmt: skip
