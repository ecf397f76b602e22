"""Convolution of small images by mixed columns: one product of matrices with the knowledge base for all images.

Where an image has few pixels its kernel is larger than the image, and kernels of a batch are what memory is busy with.
Mixed columns do without them. The product is a 1x1 convolution of torch's library, in the arithmetic that is allowed
for convolutions, or where ``halves`` are multiplied one of matrices; ``columns_kernels`` has the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .columns_launch import (
    Geometry,
    launch_columns,
    launch_gradients,
    launch_scales,
    launch_weight,
    launch_weight_gradient,
)
from .halves import Ranges, halved, is_halved, largest, measured
from .replay import repeated
from .sizes import parts, precision

__all__ = [
    "Products", "convolve_columns", "gradients_of_columns", "gradients_of_products", "is_small", "launch_first",
    "takes_halves",
]  # fmt: skip

PIXELS = 64  # of an output image, at most; more make columns larger than kernels
BUDGET = 30 * 2**20  # numbers of columns held at once, 44 images of 512 channels and 7x7 pixels; or one image's
_PLAIN = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)  # a convolution without stride, padding, dilation and groups
Factors = tuple[Tensor | None, Tensor | None]
_WIDENS = hasattr(torch.ops.aten.mm, "dtype")  # torch multiplies 16 bits into 32, since 2.8


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


def takes_halves(dtype: torch.dtype) -> bool:
    """Whether products of columns of images of this dtype are of halves."""
    return _WIDENS and is_halved(dtype)


def launch_first(
    x: Tensor, U: Tensor, M: Tensor, size: tuple[int, int], geometry: Geometry, ranges: Ranges | None
) -> list[Tensor]:
    """What the product of the first part of a batch is of, by launches alone.

    Args:
        x: ``(B, C_in, H, W)`` of any strides.
        U: knowledge base ``(C_out, C_in, K, K, K)``, contiguous.
        M: shift operators ``(B, K*K, K*K*K)``, float32, contiguous.
        size: rows and columns of an output image.
        geometry: stride, padding and dilation in pixels, per axis.
        ranges: where halves are multiplied.

    Returns:
        ``U`` as ``(C_out, K*K*K*C_in, 1, 1)``; the scales of all columns and the factors of products with them, if
        there are ranges; and columns ``(images, K*K*K*C_in, H_out, W_out)``, channels_last.
    """
    part = next(iter(_parts(x, U, size)))
    weight, *factor = launch_weight(U, x.dtype, ranges)
    scales = [] if ranges is None else [*launch_scales(ranges, M.shape[1], *factor)]
    scale = scales[0][part] if scales else None
    return [weight, *scales, launch_columns(x[part], M[part], U, size, geometry, scale)]


def convolve_columns(
    x: Tensor, U: Tensor, M: Tensor, size: tuple[int, int], last: bool, geometry: Geometry,
    first: list[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """``y[b] = conv2d(x[b], U M[b])``.

    Args:
        x: as of :func:`launch_first`, and so what is not named here.
        U: see ``x``.
        M: see ``x``.
        size: see ``x``.
        last: whether ``y`` is channels_last, or else contiguous.
        geometry: see ``x``.
        first: what that returned, if it was called; emptied, so that the columns end with their product.

    Returns:
        ``(B, C_out, H_out, W_out)`` in the dtype of ``x``.
    """
    if first is None:
        first = launch_first(x, U, M, size, geometry, measured(x, U, M) if takes_halves(x.dtype) else None)
    z, weight, found = first.pop(), first.pop(0), []
    scale, factor = first or (None, None)
    for part in _parts(x, U, size):
        if part.start:
            z = _columns(x[part], M[part], U, size, geometry, _cut(scale, part))
        found.append(_multiply(z, weight, factor is not None))
        del z
    y = found[0] if len(found) == 1 else torch.cat(found)
    if factor is not None:
        y.mul_(factor[:, None, None, None])
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def gradients_of_columns(
    dy: Tensor, x: Tensor, U: Tensor, M: Tensor, dx: Tensor | None, need_weight: bool, geometry: Geometry
) -> tuple[Tensor | None, list[tuple[slice, Tensor]]]:
    """Gradients of :func:`convolve_columns`; that to ``x`` is written into ``dx`` where given.

    Returns:
        the gradient to ``U``, if wanted, and for every part of the batch partial sums of that to ``M``,
        ``(shares, images, 1, K*K, K*K*K)``.
    """
    ranges = measured(x, U, M) if takes_halves(x.dtype) else None
    dweight, found, last, dz, factors, times = gradients_of_products(dy, x, U, M, ranges, dx, need_weight, geometry)
    of_last = _gradients(dz, _cut(x, last), _cut(M, last), _cut(dx, last), U, geometry, factors)
    found.append((last, of_last))
    return None if dweight is None else launch_weight_gradient(dweight, U, times), found


class Products(NamedTuple):
    """Gradients but for the launches that end them, so that they can be recorded with what follows."""

    weight: Tensor | None  # what ``launch_weight_gradient`` makes the gradient to U of, if wanted
    found: list[tuple[slice, Tensor]]  # parts of the batch but the last, and partial sums of the gradient to M
    last: slice
    dz: Tensor  # gradient to the columns of the last part
    factors: Factors  # of ``dz``
    times: Tensor | None  # factor of ``weight``


def gradients_of_products(
    dy: Tensor, x: Tensor, U: Tensor, M: Tensor, ranges: Ranges | None, dx: Tensor | None, need_weight: bool,
    geometry: Geometry,
) -> Products:  # fmt: skip
    """Gradients of :func:`convolve_columns` but for their end; ``ranges`` where halves are multiplied."""
    size = (dy.shape[2], dy.shape[3])
    dy = dy.contiguous(memory_format=torch.channels_last)
    part, *others = _parts(x, U, size)
    scale, of_dy, of_weight, times = None, None, None, None
    if ranges is None:

        def launches(x: Tensor, U: Tensor, M: Tensor) -> list[Tensor]:
            return launch_first(x, U, M, size, geometry, None)

        weight, z = repeated(("first columns", size, geometry, U.shape, U.dtype, *_kind(x)), launches, x, U, M)
    else:

        def launches_of_halves(dy: Tensor, x: Tensor, U: Tensor, M: Tensor, *ranges: Tensor) -> list[Tensor]:
            found = largest(dy)
            dy, of_dy = halved(dy, found)
            assert of_dy is not None
            weight, of_weight = launch_weight(U, x.dtype, Ranges(*ranges))
            scale, times = launch_scales(Ranges(*ranges), M.shape[1], of_weight, found)
            z = launch_columns(x[part], M[part], U, size, geometry, scale[part])
            return [dy, of_dy, weight, of_weight, scale, times, z]

        key = ("first columns of halves", size, geometry, U.shape, U.dtype, *_kind(x))
        dy, of_dy, weight, of_weight, scale, times, z = repeated(key, launches_of_halves, dy, x, U, M, *ranges)
    dweight: Tensor | None = None
    found: list[tuple[slice, Tensor]] = []
    while True:
        of_y = _cut(dy, part)
        if need_weight:  # parts of 16 bits add up in 32
            of_part = _weight_gradient(of_y, z, weight, ranges is not None)
            dweight = of_part if dweight is None else dweight.float().add_(of_part)
            del of_part
        del z  # before its gradient comes, which is as large
        dz, factors = _gradient_of_columns(of_y, weight, ranges is not None), (_cut(of_dy, part), of_weight)
        if not others:
            return Products(dweight, found, part, dz, factors, times)
        found.append((part, _gradients(dz, x[part], M[part], _cut(dx, part), U, geometry, factors)))
        del dz
        part, *others = others
        z = _columns(x[part], M[part], U, size, geometry, _cut(scale, part))


def _multiply(z: Tensor, weight: Tensor, halves: bool) -> Tensor:
    """Columns by the knowledge base."""
    return _as_images(_product(_rows(z), _rows(weight).t()), z) if halves else F.conv2d(z, weight)


def _weight_gradient(dy: Tensor, z: Tensor, weight: Tensor, halves: bool) -> Tensor:
    if halves:
        return _product(_rows(dy).t(), _rows(z))
    return torch.ops.aten.convolution_backward(dy, z, weight, None, *_PLAIN, [False, True, False])[1]


def _gradient_of_columns(dy: Tensor, weight: Tensor, halves: bool) -> Tensor:
    """Channels_last, in the dtype of both, whatever autocast is for around the backward pass."""
    if halves:
        return _as_images(_product(_rows(dy), _rows(weight)), dy)
    with _without_autocast(dy):
        return F.conv_transpose2d(dy, weight).contiguous(memory_format=torch.channels_last)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a b`` of two matrices of float16 in float32."""
    if not a.is_cuda or torch.backends.cuda.matmul.allow_fp16_accumulation:
        return a.float() @ b.float()
    with _without_autocast(a):
        return torch.mm(a, b, out_dtype=torch.float32)


def _without_autocast(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def _rows(t: Tensor) -> Tensor:
    """Pixels of all images by channels, of a tensor that is channels_last."""
    return t.permute(0, 2, 3, 1).reshape(-1, t.shape[1])


def _as_images(rows: Tensor, like: Tensor) -> Tensor:
    """Back again, channels_last, for images of the size of ``like``."""
    return rows.view(len(like), *like.shape[2:], rows.shape[1]).permute(0, 3, 1, 2)


def _parts(x: Tensor, U: Tensor, size: tuple[int, int]) -> Iterator[slice]:
    """Parts of the batch whose columns stay below the budget; operators of each start where kernels can load."""
    return parts(x.shape[0], U.numel() // U.shape[0] * size[0] * size[1], BUDGET, multiple=4)


def _cut(t: Any, part: slice) -> Any:
    """A part of a tensor's batch, without a view if that is all of it; of ``None`` none."""
    return t if t is None or (part.start == 0 and part.stop >= t.shape[0]) else t[part]


def _columns(
    x: Tensor, M: Tensor, U: Tensor, size: tuple[int, int], geometry: Geometry, scale: Tensor | None
) -> Tensor:
    """The columns of a part, recorded."""

    def launches(x: Tensor, M: Tensor, *scale: Tensor) -> list[Tensor]:
        return [launch_columns(x, M, U, size, geometry, *(scale or (None,)))]

    given = () if scale is None else (scale,)
    return repeated(("columns", size, geometry, U.shape, len(given), *_kind(x)), launches, x, M, *given)[0]


def _gradients(
    dz: Tensor, x: Tensor, M: Tensor, dx: Tensor | None, U: Tensor, geometry: Geometry, factors: Factors
) -> Tensor:
    """``launch_gradients``, recorded."""
    given = [t for t in factors if t is not None]

    def launches(dz: Tensor, x: Tensor, M: Tensor, *rest: Tensor) -> list[Tensor]:
        factors, dx = rest[: len(given)], rest[len(given) :]
        return [launch_gradients(dz, x, M, dx[0] if dx else None, U, geometry, factors or (None, None))]

    key = ("columns' gradients", dz.shape, geometry, len(given), *_kind(x), None if dx is None else dx.stride())
    return repeated(key, launches, dz, x, M, *given, *(() if dx is None else (dx,)))[0]


def _kind(x: Tensor) -> tuple[Any, ...]:
    return x.device, x.shape, x.stride(), x.dtype, precision(x.dtype)
