"""Convolution of small images by mixed columns: one product of matrices with the knowledge base for all images.

Where an image has few pixels its kernel is larger than the image, and kernels of a batch are what memory is busy with.
Mixed columns do without them. ``products`` has the products, ``kernels`` the rest, and the equations.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..images.halves import Ranges, largest
from ..images.turn import turned
from ..launches.replay import call
from ..shift.launch import write_gradient_of_shift
from ..sizes import cut, parts
from .launch import (
    Geometry,
    launch_columns,
    launch_depth,
    launch_depth_gradient,
    launch_gradients,
    launch_scales,
    launch_weight,
    launch_weight_gradient,
)
from .products import WIDENS, add_product, product

__all__ = ["convolve_columns", "gradients_of_columns", "is_small"]

PIXELS = 64  # of an output image, at most; more make columns larger than kernels
BUDGET = 30 * 2**20  # numbers of columns held at once, 133 images of 512 channels and 7x7 pixels; or one image's


def is_small(U: Tensor, pixels: int, groups: int) -> bool:
    """Whether mixed columns of an image are less work than a kernel of its own.

    Counted for an H200: kernels cost ``9 C O`` numbers that cross memory some seven times, columns three times
    the operations, of the faster product, and ``9 C P`` numbers that cross it six times.

    Args:
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``.
        pixels: of an output image.
        groups: of the convolution.
    """
    return groups == 1 and U.shape[2] == 3 and pixels <= min(PIXELS, len(U) // 4)


def convolve_columns(
    x: Tensor, U: Tensor, r: Tensor, ranges: Ranges | None, y: Tensor, along: Tensor | None,
    geometry: Geometry,
) -> None:  # fmt: skip
    """Write ``y[b] = conv2d(x[b], U M[b])``, by launches and calls alone.

    Args:
        x: ``(B, C_in, H, W)`` of any strides.
        U: knowledge base ``(C_out, C_in, K, K, K)``, contiguous, of ``K = 3``.
        r: ``(B, 4)``, float32, what the operators ``M`` are made of, contiguous.
        ranges: where halves are multiplied.
        y: ``(B, C_out, H_out, W_out)``, channels_last or contiguous, written.
        along: the same, channels_last: the derivative of ``y`` to the shift along depth, written where it is wanted.
        geometry: stride, padding and dilation in pixels, per axis.
    """
    size, scale, factor = (y.shape[2], y.shape[3]), None, None
    ranges = ranges if WIDENS else None
    weight, *of_weight = launch_weight(U, x.dtype, ranges)
    if ranges is not None:
        scale, factor = launch_scales(ranges, *of_weight)
    for part in _parts(x, size):
        z = launch_columns(x[part], r[part], size, geometry, cut(scale, part))
        deep = torch.empty((len(z), len(weight)), dtype=torch.float32, device=x.device)
        call(product, z, weight.t(), deep)
        del z
        launch_depth(deep, r[part], cut(factor, part), y[part], cut(along, part))
        del deep


def gradients_of_columns(
    dy: Tensor, x: Tensor, U: Tensor, r: Tensor, ranges: Ranges | None, along: Tensor, dx: Tensor | None,
    dU: Tensor | None, dr: Tensor, geometry: Geometry,
) -> None:  # fmt: skip
    """Write gradients of :func:`convolve_columns` into ``dr``, and ``dx`` and ``dU`` where given, in the same way."""
    scale, times, largest_dy, of_weight, dweight = None, None, None, None, None
    size, ranges = (dy.shape[2], dy.shape[3]), ranges if WIDENS else None
    if not dy.is_contiguous(memory_format=torch.channels_last):
        dy = turned(dy, dy.dtype)
    weight, *found = launch_weight(U, x.dtype, ranges)
    if ranges is not None:
        largest_dy, (of_weight,) = largest(dy), found
        scale, times = launch_scales(ranges, of_weight, largest_dy)
    for part in _parts(x, size):
        of_deep, of_dy, along_depth = launch_depth_gradient(dy[part], r[part], along[part], cut(largest_dy, part))
        dz = torch.empty((len(of_deep), weight.shape[1]), dtype=x.dtype, device=x.device)  # of halves too: its range
        call(product, of_deep, weight, dz)
        in_plane = launch_gradients(dz, x[part], r[part], cut(dx, part), size, geometry, (of_dy, of_weight))
        write_gradient_of_shift(along_depth, in_plane, r[part], dr[part])
        del dz  # before the columns come, which are as large
        if dU is not None:
            if dweight is None:
                dweight = torch.empty(weight.shape, dtype=torch.float32, device=x.device)
            z = launch_columns(x[part], r[part], size, geometry, cut(scale, part))
            call(add_product if part.start else product, of_deep.t(), z, dweight)
            del z
        del of_deep
    if dU is not None and dweight is not None:
        launch_weight_gradient(dweight, dU, times)


def _parts(x: Tensor, size: tuple[int, int]) -> Iterator[slice]:
    """Parts of the batch whose columns stay below the budget."""
    return parts(x.shape[0], 9 * x.shape[1] * size[0] * size[1], BUDGET)
