"""Launches of the kernels in ``kernels``, and what they make of a knowledge base and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..images.halves import PARTS, Ranges
from ..images.turn import channels_last, turned
from ..launches.replay import launch
from ..sizes import cdiv, cut, parts
from . import kernels

__all__ = [
    "Geometry", "geometry", "launch_columns", "launch_depth", "launch_depth_gradient", "launch_gradients",
    "launch_scales", "launch_weight", "launch_weight_gradient",
]  # fmt: skip

Geometry = tuple[int, ...]  # stride, padding and dilation in pixels, per axis

MOST = 4  # a column is at most so many times the largest value of an image: (5/3)**2, a mean of the plane's 9 taps
BLOCK_B = 64  # images whose scales are found at once
BLOCK = 1024  # values of a program: a thread has eight, 16 bytes of two each
BLOCK_GRAD = 512  # where a value keeps so many more in registers
BUDGET = 8 * 2**20  # numbers of the gradient to columns of images at once, what the cache holds; or one image's


def geometry(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Geometry:
    """All three in a row, as kernels take them."""
    return (*stride, *padding, *dilation)


def launch_weight(U: Tensor, dtype: torch.dtype, ranges: Ranges | None) -> list[Tensor]:
    """``U`` as ``(C_out*3, 9*C_in)`` in a dtype; with ranges in float16, and its factor."""
    found, source = [], U.flatten(2)[:, :, None]
    if ranges is None:
        weight = channels_last(source, dtype)
    else:
        found = [torch.empty((1,), dtype=torch.float32, device=U.device)]
        weight = turned(source, torch.float16, largest=ranges.kernels[0], factor=found[0])
    return [weight.permute(0, 2, 3, 1).view(len(U) * U.shape[2], -1), *found]


def launch_weight_gradient(dweight: Tensor, dU: Tensor, times: Tensor | None) -> None:
    """Write the gradient to ``U`` by a launch, from that to what :func:`launch_weight` returned, and times a number."""
    source = dweight.view(len(dU), -1, 1, dU.shape[1])  # (C_out, K*K*K, 1, C_in), to be turned
    turned(source, dU.dtype, times=times, into=dU)


def launch_scales(ranges: Ranges, of_weight: Tensor, largest_dy: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scales of the columns of all images, ``(B,)``, and factors of products with them.

    Args:
        ranges: of images and kernels.
        of_weight: factor of the knowledge base.
        largest_dy: ``(B, PARTS)``, of the gradient to the output, where products with that are meant.

    Returns:
        the scales, and ``(B,)`` factors of products with the knowledge base, or one of those with the gradient.
    """
    images = len(ranges.images)
    scale = torch.empty((images,), dtype=torch.float32, device=of_weight.device)
    factor = torch.empty((images if largest_dy is None else 1,), dtype=torch.float32, device=of_weight.device)
    with torch.cuda.device_of(of_weight):
        launch(
            kernels.scales_kernel, (1,), ranges.images, of_weight, largest_dy, scale, factor, images,
            MOST=MOST, PARTS=PARTS, BLOCK_B=BLOCK_B,
        )  # fmt: skip
    return scale, factor


def launch_columns(x: Tensor, r: Tensor, size: tuple[int, int], geometry: Geometry, scale: Tensor | None) -> Tensor:
    """Columns ``(B*H_out*W_out, 9*C_in)`` in the dtype of ``x``, or scaled in float16."""
    values = size[0] * size[1] * x.shape[1]
    dtype = x.dtype if scale is None else torch.float16
    z = torch.empty((len(x) * size[0] * size[1], 9 * x.shape[1]), dtype=dtype, device=x.device)
    with torch.cuda.device_of(x):
        launch(
            kernels.columns_kernel, (cdiv(values, BLOCK), len(x)), x, r, scale, z, values, x.shape[1], size[1],
            *x.shape[2:], *x.stride(), *geometry, BLOCK=BLOCK,
        )  # fmt: skip
    return z


def launch_depth(deep: Tensor, r: Tensor, factor: Tensor | None, y: Tensor, along: Tensor | None) -> None:
    """Write ``y`` from products of the columns, and its derivative to the shift along depth, by a launch.

    Args:
        deep: ``(B*H_out*W_out, C_out*3)``, float32.
        r: ``(B, 4)``.
        factor: ``(B,)``, what an image's values are meant times, if anything.
        y: ``(B, C_out, H_out, W_out)``, channels_last or contiguous, written.
        along: the same, channels_last, where it is wanted.
    """
    images, outputs, height, width = y.shape
    values = outputs * height * width
    last = y.is_contiguous(memory_format=torch.channels_last)
    with torch.cuda.device_of(y):
        launch(
            kernels.depth_kernel, (cdiv(values, BLOCK), images), deep, r, factor, y, along, values, outputs, values,
            *((1, outputs) if last else (height * width, 1)), KEEP=along is not None, BLOCK=BLOCK,
        )  # fmt: skip


def launch_depth_gradient(
    dy: Tensor, r: Tensor, along: Tensor, largest_dy: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What ``dy`` makes of the derivatives of :func:`launch_depth`, by a launch.

    Args:
        dy: ``(B, C_out, H_out, W_out)``, channels_last.
        r: ``(B, 4)``.
        along: from forward.
        largest_dy: ``(B, PARTS)``, where the gradient to the products is to be scaled float16.

    Returns:
        the gradient to the products, ``(B*H_out*W_out, C_out*3)``; with ``largest_dy`` the factor of every image; and
        partial sums of the gradient to the shift along depth, ``(B, parts)``.
    """
    images, outputs, height, width = dy.shape
    values = outputs * height * width
    dtype = dy.dtype if largest_dy is None else torch.float16
    deep = torch.empty((images * height * width, outputs * 3), dtype=dtype, device=dy.device)
    factor = None if largest_dy is None else torch.empty((images,), dtype=torch.float32, device=dy.device)
    ds = torch.empty((images, cdiv(values, BLOCK)), dtype=torch.float32, device=dy.device)
    with torch.cuda.device_of(dy):
        launch(
            kernels.depth_grad_kernel, (ds.shape[1], images), dy, r, along, largest_dy, deep, factor, ds, values,
            BLOCK=BLOCK, PARTS=PARTS,
        )  # fmt: skip
    return deep, factor, ds


def launch_gradients(
    dz: Tensor, x: Tensor, r: Tensor, dx: Tensor | None, size: tuple[int, int], geometry: Geometry,
    factors: Sequence[Tensor | None] = (None, None),
) -> Tensor:  # fmt: skip
    """Partial sums of the gradient to shifts in the plane, ``(B, 2, parts)``, and ``dx``, by two launches a part.

    ``dz`` is as of :func:`launch_columns`, and meant times ``factors``, if there are any: of each image, and of all.
    """
    (images, channels, *_), pixels = x.shape, size[0] * size[1]
    ds = torch.empty((images, 2, cdiv(pixels * channels, BLOCK_GRAD)), dtype=torch.float32, device=x.device)
    of_images, of_all = factors
    for part in parts(images, 9 * pixels * channels, BUDGET):
        rows, of_part = slice(part.start * pixels, part.stop * pixels), (cut(of_images, part), of_all)
        _launch_gradients(dz[rows], x[part], r[part], cut(dx, part), ds[part], size, geometry, of_part)
    return ds


def _launch_gradients(
    dz: Tensor, x: Tensor, r: Tensor, dx: Tensor | None, ds: Tensor, size: tuple[int, int], geometry: Geometry,
    factors: Sequence[Tensor | None],
) -> None:  # fmt: skip
    """The same of a part, written into ``ds`` too."""
    (images, channels, *_), values = x.shape, size[0] * size[1] * x.shape[1]
    e = torch.empty((0,) if dx is None else (images, 9, values), dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        launch(
            kernels.columns_grad_kernel, (ds.shape[2], images), x, r, dz, *factors, e, ds, values, channels, size[1],
            *x.shape[2:], *x.stride(), *geometry, NEED_X=dx is not None, BLOCK=BLOCK_GRAD,
        )  # fmt: skip
        if dx is not None:
            values_x = dx[0].numel()
            launch(
                kernels.fold_kernel, (cdiv(values_x, BLOCK), images), e, dx, values_x, values, channels, *size,
                x.shape[3], *dx.stride(), *geometry, BLOCK=BLOCK,
            )  # fmt: skip
