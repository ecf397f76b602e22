"""Convolution of small images by mixed columns: one product of matrices with the knowledge base for all images.

Where an image has few pixels its kernel is larger than the image, and kernels of a batch are what memory is busy with.
Mixed columns do without them. ``products`` has the products, ``columns_kernels`` the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .columns_launch import (
    Geometry,
    launch_columns,
    launch_gradients,
    launch_scaled,
    launch_scales,
    launch_weight,
    launch_weight_gradient,
)
from .halves import Ranges, halved, largest
from .products import WIDENS, add_product, product
from .replay import call
from .sizes import parts
from .turn import turned

__all__ = ["convolve_columns", "gradients_of_columns", "is_small"]

PIXELS = 64  # of an output image, at most; more make columns larger than kernels
BUDGET = 30 * 2**20  # numbers of columns held at once, 44 images of 512 channels and 7x7 pixels; or one image's


def is_small(U: Tensor, pixels: int, groups: int) -> bool:
    """Whether mixed columns of an image are less work than a kernel of its own.

    Counted for an H200: kernels cost ``9 C O`` numbers that cross memory some seven times, columns three times
    the operations, of the faster product, and ``27 C P`` numbers that cross it six times.

    Args:
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``.
        pixels: of an output image.
        groups: of the convolution.
    """
    return groups == 1 and U.shape[2] in (2, 3) and pixels <= min(PIXELS, len(U) // 4)


def convolve_columns(x: Tensor, U: Tensor, M: Tensor, ranges: Ranges | None, y: Tensor, geometry: Geometry) -> None:
    """Write ``y[b] = conv2d(x[b], U M[b])``, by launches and calls alone.

    Args:
        x: ``(B, C_in, H, W)`` of any strides.
        U: knowledge base ``(C_out, C_in, K, K, K)``, contiguous.
        M: shift operators ``(B, K*K, K*K*K)``, float32, of ``aligned``.
        ranges: where halves are multiplied.
        y: ``(B, C_out, H_out, W_out)``, channels_last or contiguous, written.
        geometry: stride, padding and dilation in pixels, per axis.
    """
    size, last = (y.shape[2], y.shape[3]), y.is_contiguous(memory_format=torch.channels_last)
    scale, factor = None, None
    ranges = ranges if WIDENS else None
    weight, *of_weight = launch_weight(U, x.dtype, ranges)
    if ranges is not None:
        scale, factor = launch_scales(ranges, M.shape[1], *of_weight)
    rows = _rows(y) if last else torch.empty((len(y) * y[0, 0].numel(), len(U)), dtype=y.dtype, device=y.device)
    for part in _parts(x, U, size):
        z = launch_columns(x[part], M[part], U, size, geometry, _cut(scale, part))
        call(product, _rows(z), weight.t(), rows.view(len(y), -1, len(U))[part].flatten(0, 1))
        del z
    if factor is not None:
        launch_scaled(rows.view(len(y), -1), factor)
    if not last:
        turned(rows.view(len(y), -1, len(U), 1), y.dtype, into=y)  # pixels as channels, which are to lie side by side


def gradients_of_columns(
    dy: Tensor, x: Tensor, U: Tensor, M: Tensor, ranges: Ranges | None, dx: Tensor | None, dU: Tensor | None,
    geometry: Geometry,
) -> Iterator[tuple[slice, Tensor]]:  # fmt: skip
    """Write gradients of :func:`convolve_columns` into ``dx`` and ``dU`` where given, by launches and calls alone.

    Yields:
        a part of the batch and its partial sums of the gradient to ``M``, ``(shares, images, 1, K*K, K*K*K)``.
    """
    scale, times, of_dy, of_weight, dweight = None, None, None, None, None
    size, ranges = (dy.shape[2], dy.shape[3]), ranges if WIDENS else None
    if not dy.is_contiguous(memory_format=torch.channels_last):
        dy = turned(dy, dy.dtype)
    weight, *found = launch_weight(U, x.dtype, ranges)
    if ranges is not None:
        largest_dy, (of_weight,) = largest(dy), found
        dy, of_dy = halved(dy, largest_dy)
        scale, times = launch_scales(ranges, M.shape[1], of_weight, largest_dy)
    if dU is not None:
        dweight = torch.empty(weight.shape, dtype=torch.float32, device=x.device)
    for part in _parts(x, U, size):
        of_y, z = _rows(dy[part]), launch_columns(x[part], M[part], U, size, geometry, _cut(scale, part))
        if dweight is not None:
            call(add_product if part.start else product, of_y.t(), _rows(z), dweight)
        shape = z.shape
        del z  # before its gradient comes, which is as large; of halves in float32, whose range it needs
        dz = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        call(product, of_y, weight, _rows(dz))
        of_part = launch_gradients(dz, x[part], M[part], _cut(dx, part), U, geometry, (_cut(of_dy, part), of_weight))
        del dz
        yield part, of_part
    if dU is not None and dweight is not None:
        launch_weight_gradient(dweight, dU, times)


def _rows(t: Tensor) -> Tensor:
    """Pixels of all images by channels, a view of a tensor that is channels_last."""
    return t.permute(0, 2, 3, 1).view(-1, t.shape[1])


def _parts(x: Tensor, U: Tensor, size: tuple[int, int]) -> Iterator[slice]:
    """Parts of the batch whose columns stay below the budget."""
    return parts(x.shape[0], U.numel() // U.shape[0] * size[0] * size[1], BUDGET)


def _cut(t: Tensor | None, part: slice) -> Tensor | None:
    return None if t is None else t[part]
