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
from .replay import launch, repeated
from .sizes import block, cdiv, parts, precision
from .turn import channels_last

__all__ = [
    "convolve_columns", "geometry", "gradients_of_columns", "gradients_of_products", "is_small", "launch_first",
    "launch_gradients", "launch_weight_gradient",
]  # fmt: skip

Geometry = tuple[int, ...]  # stride, padding and dilation in pixels, per axis

PIXELS = 64  # of an output image, at most; more make columns larger than kernels
BUDGET = 30 * 2**20  # numbers of columns held at once, 44 images of 512 channels and 7x7 pixels; or one image's
BLOCK_R = 128  # rows of a tile, of 32 values each
BLOCK = 1024  # values of ``dx`` of a program
PROGRAMS = 1056  # eight for each of 132 multiprocessors: as many shares as that takes, no more
_PLAIN = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)  # a convolution without stride, padding, dilation and groups


def geometry(stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Geometry:
    """All three in a row, as kernels take them."""
    return (*stride, *padding, *dilation)


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


def launch_first(x: Tensor, U: Tensor, M: Tensor, size: tuple[int, int], geometry: Geometry) -> list[Tensor]:
    """What the product of the first part of a batch is of, by launches alone.

    Args:
        x: ``(B, C_in, H, W)`` of any strides.
        U: knowledge base ``(C_out, C_in, K, K, K)``, contiguous.
        M: shift operators ``(B, K*K, K*K*K)``, float32, contiguous.
        size: rows and columns of an output image.
        geometry: stride, padding and dilation in pixels, per axis.

    Returns:
        ``U`` as ``(C_out, K*K*K*C_in, 1, 1)`` in the dtype of ``x``, and columns
        ``(images, K*K*K*C_in, H_out, W_out)``, channels_last.
    """
    part = next(iter(_parts(x, U, size)))
    weight = _turned(U.flatten(2), x.dtype).view(len(U), -1, 1, 1)
    return [weight, _launch_columns(x[part], M[part], U, size, geometry)]


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
    first = first or launch_first(x, U, M, size, geometry)
    z, weight, found = first.pop(), first.pop(), []
    for part in _parts(x, U, size):
        if part.start:
            z = _columns(x[part], M[part], U, size, geometry)
        found.append(F.conv2d(z, weight))
        del z
    y = found[0] if len(found) == 1 else torch.cat(found)
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def gradients_of_columns(
    dy: Tensor, x: Tensor, U: Tensor, M: Tensor, dx: Tensor | None, need_weight: bool, geometry: Geometry
) -> tuple[Tensor | None, list[tuple[slice, Tensor]]]:
    """Gradients of :func:`convolve_columns`; that to ``x`` is written into ``dx`` where given.

    Returns:
        what :func:`launch_weight_gradient` makes the gradient to ``U`` of, if wanted, and for every part of the batch
        partial sums of that to ``M``, ``(shares, images, 1, K*K, K*K*K)``.
    """
    dweight, found, last, dz = gradients_of_products(dy, x, U, M, dx, need_weight, geometry)
    return dweight, [*found, (last, _gradients(dz, _cut(x, last), _cut(M, last), _cut(dx, last), U, geometry))]


def gradients_of_products(
    dy: Tensor, x: Tensor, U: Tensor, M: Tensor, dx: Tensor | None, need_weight: bool, geometry: Geometry
) -> tuple[Tensor | None, list[tuple[slice, Tensor]], slice, Tensor]:
    """The same but for the launches that end it, so that they can be recorded with what follows.

    Returns:
        as :func:`gradients_of_columns` for all parts but the last; then that part and the gradient to its columns.
    """
    size = (dy.shape[2], dy.shape[3])

    def launches(x: Tensor, U: Tensor, M: Tensor) -> list[Tensor]:
        return launch_first(x, U, M, size, geometry)

    weight, z = repeated(("first columns", size, geometry, U.shape, U.dtype, *_kind(x)), launches, x, U, M)
    dy = dy.contiguous(memory_format=torch.channels_last)
    dweight, found, cuts = None, [], [*_parts(x, U, size)]
    for part in cuts:
        z = _columns(x[part], M[part], U, size, geometry) if part.start else z
        of_y, of_part = _cut(dy, part), None
        if need_weight:
            _, of_part, _ = torch.ops.aten.convolution_backward(of_y, z, weight, None, *_PLAIN, [False, True, False])
        del z  # before its gradient comes, which is as large
        if of_part is not None:  # parts of 16 bits add up in 32
            dweight = of_part if dweight is None else dweight.float().add_(of_part)
            del of_part
        dz = _gradient_of_columns(of_y, weight).contiguous(memory_format=torch.channels_last)
        if part is not cuts[-1]:
            found.append((part, _gradients(dz, x[part], M[part], _cut(dx, part), U, geometry)))
            del dz
    return dweight, found, part, dz


def _gradient_of_columns(dy: Tensor, weight: Tensor) -> Tensor:
    """In the dtype of both, whatever autocast is for around the backward pass."""
    kind = dy.device.type
    if torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return F.conv_transpose2d(dy, weight)
    return F.conv_transpose2d(dy, weight)


def launch_weight_gradient(dweight: Tensor, U: Tensor) -> Tensor:
    """The gradient to ``U`` by a launch."""
    return _turned(dweight.view(len(U), -1, U.shape[1]), U.dtype).view(U.shape)


def _turned(a: Tensor, dtype: torch.dtype) -> Tensor:
    """``(A, B, C)`` as ``(A, C, B)``, for one channel in the same memory."""
    return channels_last(a[:, :, None], dtype).permute(0, 2, 3, 1).reshape(len(a), a.shape[2], a.shape[1])


def _parts(x: Tensor, U: Tensor, size: tuple[int, int]) -> Iterator[slice]:
    """Parts of the batch whose columns stay below the budget; operators of each start where kernels can load."""
    return parts(x.shape[0], U.numel() // U.shape[0] * size[0] * size[1], BUDGET, multiple=4)


def _cut(t: Any, part: slice) -> Any:
    """A part of a tensor's batch, without a view if that is all of it; of ``None`` none."""
    return t if t is None or (part.start == 0 and part.stop >= t.shape[0]) else t[part]


def _columns(x: Tensor, M: Tensor, U: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """The columns of a part, recorded."""

    def launches(x: Tensor, M: Tensor) -> list[Tensor]:
        return [_launch_columns(x, M, U, size, geometry)]

    return repeated(("columns", size, geometry, U.shape, *_kind(x)), launches, x, M)[0]


def _launch_columns(x: Tensor, M: Tensor, U: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    rows, shape = size[0] * size[1] * x.shape[1], (len(x), U[0].numel(), *size)
    z = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(x):
        launch(
            kernels.columns_kernel, (cdiv(rows, BLOCK_R), len(x)), x, M, z, rows, x.shape[1], size[1],
            *x.shape[2:], *x.stride(), *geometry, **_blocks(x, U),
        )  # fmt: skip
    return z


def launch_gradients(dz: Tensor, x: Tensor, M: Tensor, dx: Tensor | None, U: Tensor, geometry: Geometry) -> Tensor:
    """Partial sums of the gradient to the ``M`` of a part, and ``dx``, by two launches; ``dz`` is channels_last."""
    (images, channels, *_), (y_h, y_w), taps = x.shape, dz.shape[2:], M.shape[1]
    rows = y_h * y_w * channels
    share = cdiv(rows, BLOCK_R * max(1, PROGRAMS // images)) * BLOCK_R
    e = torch.empty((0,) if dx is None else (images, taps, rows), dtype=x.dtype, device=x.device)
    dm = torch.empty((cdiv(rows, share), images, 1, *M.shape[1:]), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        launch(
            kernels.columns_grad_kernel, (len(dm), images), x, M, dz, e, dm, rows, share, channels, y_w,
            *x.shape[2:], *x.stride(), *geometry, NEED_X=dx is not None, **_blocks(x, U),
        )  # fmt: skip
        if dx is not None:
            values = dx[0].numel()
            launch(
                kernels.fold_kernel, (cdiv(values, BLOCK), images), e, dx, values, rows, channels, y_h, y_w,
                x.shape[3], *dx.stride(), *geometry, K=U.shape[2], BLOCK=BLOCK,
            )  # fmt: skip
    return dm


def _gradients(dz: Tensor, x: Tensor, M: Tensor, dx: Tensor | None, U: Tensor, geometry: tuple[int, ...]) -> Tensor:
    """The same, recorded."""

    def launches(dz: Tensor, x: Tensor, M: Tensor, *dx: Tensor) -> list[Tensor]:
        return [launch_gradients(dz, x, M, dx[0] if dx else None, U, geometry)]

    inputs = (dz, x, M) if dx is None else (dz, x, M, dx)
    key = ("columns' gradients", dz.shape, geometry, *_kind(x), None if dx is None else dx.stride())
    return repeated(key, launches, *inputs)[0]


def _blocks(x: Tensor, U: Tensor) -> dict[str, Any]:
    """What both kernels are told besides sizes: taps and depth are padded to what a matrix product takes."""
    size = U.shape[2]
    return {
        "K": size, "PRECISION": precision(x.dtype), "BLOCK_R": BLOCK_R, "BLOCK_T": 16,
        "BLOCK_S": block(64, size**3),
    }  # fmt: skip


def _kind(x: Tensor) -> tuple[Any, ...]:
    return x.device, x.shape, x.stride(), x.dtype, precision(x.dtype)
