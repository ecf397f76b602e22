"""Launches from the predictor's four numbers to the shift operator, and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..launches.replay import launch
from ..sizes import cdiv
from . import kernels

__all__ = ["aligned", "pitch", "write_gradient", "write_gradient_of_shift", "write_operator"]

BLOCK = 256  # entries of an operator at a time: all 243 of K = 3
BLOCK_T = 16  # partial sums read at once, by twice the threads: latency is all that an image costs, of code most of all
WARPS = 8
BLOCK_SUM = 64  # parts of a gradient that are added up at once
LEAST = 16  # numbers that a matrix product takes


def write_operator(r: Tensor, operator: Tensor, kernel_size: int) -> None:
    """Write the operators of ``r``, by one launch.

    Args:
        r: ``(B, 4)``, float32, contiguous.
        operator: ``(B, K*K, K*K*K)``, float32, contiguous, or with rows a :func:`pitch` apart, written.
        kernel_size: ``K``.
    """
    pitch = operator.stride(0) // kernel_size**2
    with torch.cuda.device_of(r):
        launch(kernels.operator_kernel, (len(r),), r, operator, K=kernel_size, PITCH=pitch, BLOCK=BLOCK)


def pitch(depth: int) -> int:
    """From one row of operators to the next, in numbers: as kernels load and multiply them, zeros among them."""
    return cdiv(depth, LEAST) * LEAST


def aligned(M: Tensor) -> Tensor:
    """Operators ``(B, K*K, K*K*K)``, float32, with rows a :func:`pitch` apart, copied where they are not."""
    _, taps, depth = M.shape
    apart = pitch(depth)
    if M.stride() == (taps * apart, apart, 1):
        return M
    return F.pad(M, (0, apart - depth)).contiguous()[..., :depth]


def write_gradient(grad: Tensor, r: Tensor, dr: Tensor, kernel_size: int) -> None:
    """Write the gradient to ``r``, by one launch.

    Args:
        grad: ``(shares, B, parts, K*K, K*K*K)``, summed over shares and parts; all are contiguous.
        r: ``(B, 4)``.
        dr: like ``r``, written.
        kernel_size: ``K``.
    """
    shares, images, parts = grad.shape[:3]
    with torch.cuda.device_of(r):
        launch(
            kernels.operator_grad_kernel, (images,), r, grad, dr, images, shares, parts,
            K=kernel_size, BLOCK=BLOCK, BLOCK_T=BLOCK_T, num_warps=WARPS,
        )  # fmt: skip


def write_gradient_of_shift(along_depth: Tensor, in_plane: Tensor, r: Tensor, dr: Tensor) -> None:
    """The same from parts of the gradient to the shift.

    Args:
        along_depth: ``(B, parts)``; all are contiguous.
        in_plane: ``(B, 2, parts)``, to that of rows and of columns.
        r: ``(B, 4)``.
        dr: like ``r``, written.
    """
    with torch.cuda.device_of(r):
        launch(
            kernels.shift_grad_kernel, (len(r),), r, along_depth, in_plane, dr, along_depth.shape[1],
            in_plane.shape[2], BLOCK=BLOCK_SUM, num_warps=1,
        )  # fmt: skip
