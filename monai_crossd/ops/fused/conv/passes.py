"""The forward and the backward pass of the convolution, by launches alone, and the way that images are convolved."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..columns.passes import is_small
from ..images.halves import Ranges, halved, is_halved, largest
from ..sizes import cut, parts
from .dense import is_dense
from .launch import convolve as launch_convolution
from .launch import kernel_grad
from .mix_launch import image_numbers, mix, unmix_m, unmix_u

__all__ = ["BUDGET", "chosen_way", "convolve", "empty_weight_grad", "gradients", "launch_unmixed", "mixed"]

BUDGET = 40 * 2**20  # numbers of kernels held at once, 71 images of 256 channels before and after; or one image's
HALVES = 3  # times as many numbers of halved images


def chosen_way(x: Tensor, U: Tensor, size: tuple[int, int], groups: int, shifted: bool = False) -> str:
    """How images are convolved, by the size of an output image: the one place where that is chosen.

    ``"columns"`` where an image is smaller than its kernel and operators are known to be ``shifted``, those of
    shifts; ``"dense"`` where an image fills a GPU by itself, for which the library's convolution is called once an
    image; and ``"kernels"`` for all else.
    """
    pixels = size[0] * size[1]
    if len(x) == 0:
        return "kernels"
    if shifted and is_small(U, pixels, groups):
        return "columns"
    return "dense" if is_dense(x, U, pixels) else "kernels"


def mixed(x, U, M, groups, last, transposed=False) -> Tensor:
    """Kernels of all images ``(B, K*K, C_out, C_in/groups)`` by one launch, for torch's library and outputs that are
    channels_last or not; ``transposed`` those of the gradient to images, ``(B, K*K, C_in, C_out/groups)`` with taps in
    reverse order. ``U`` and ``M`` are contiguous.
    """
    with torch.cuda.device_of(x):
        return mix(U, M, x.dtype, groups, transposed, last=last).values


def convolve(x, U, M, ranges: Ranges | None, y, stride, padding, dilation, groups) -> None:
    """Write the convolution into ``y`` by ``"kernels"``, by launches and calls alone.

    Inputs are contiguous, or for ``x`` channels_last, and have ranges where they are halved.
    """
    largest, bounds = ranges or (None, None)
    with torch.cuda.device_of(x):
        for part in _chunks(U, x):
            k = mix(U, M[part], x.dtype, groups, bounds=bounds)
            images = halved(x[part], cut(largest, part))
            launch_convolution(images, k, y[part], groups, stride, padding, dilation)


def gradients(
    dy,
    x,
    U,
    M,
    ranges: Ranges | None,
    dx: Tensor | None,
    dU: Tensor | None,
    stride,
    padding,
    dilation,
    groups,
    need_m: bool,
) -> Iterator[tuple[slice, Tensor]]:
    """Write gradients into ``dx`` and ``dU`` where given, by launches and calls alone, inputs as of :func:`convolve`.

    Yields:
        a part of the batch and its partial sums of the gradient to ``M``, ``(shares, images, parts, K*K, K*K*K)``;
        without ``need_m`` they may be empty.
    """
    of_images, bounds = ranges or (None, None)
    of_dy = None if ranges is None else largest(dy)
    with torch.cuda.device_of(x):
        for part in _chunks(U, x, dy):
            of_y = halved(dy[part], cut(of_dy, part))
            if dx is not None:
                k = mix(U, M[part], x.dtype, groups, transposed=True, bounds=bounds)
                launch_convolution(of_y, k, dx[part], groups, stride, padding, dilation, transposed=True)
                del k
            of_part = M.new_empty(0)
            if dU is not None or need_m:
                images = halved(x[part], cut(of_images, part))
                dk = kernel_grad(images, of_y, U.shape[2], stride, padding, dilation, groups)
                if dU is not None:
                    unmix_u(M[part], dk, dU, add=part.start > 0)
                if need_m:
                    of_part = unmix_m(U, M[part], dk)
                del dk
            yield part, of_part


def launch_unmixed(dk: Tensor, U: Tensor, M: Tensor, need_weight: bool) -> tuple[list[Tensor], Tensor]:
    """From the gradient to all kernels: to ``U``, if needed, and partial sums of that to ``M``, by launches."""
    with torch.cuda.device_of(dk):
        dU = [torch.empty(U.shape, dtype=U.dtype, device=U.device)] if need_weight else []
        for one in dU:
            unmix_u(M, dk, one, add=False)
        return dU, unmix_m(U, M, dk)


def empty_weight_grad(way: str, dy: Tensor, x: Tensor, U: Tensor) -> Tensor:
    """Where the gradient to ``U`` goes: parts of the batch add up in float32."""
    adds = way == "kernels" and sum(1 for _ in _chunks(U, x, dy)) > 1
    return torch.empty(U.shape, dtype=torch.float32 if adds else U.dtype, device=U.device)


def _chunks(U: Tensor, *images: Tensor) -> Iterator[slice]:
    """Parts of the batch whose kernels stay below the budget, and those ``images`` that are halved."""
    each = image_numbers(U)
    if is_halved(images[0].dtype):
        each = max(each, *(t.numel() // max(1, len(t)) // HALVES for t in images))
    return parts(len(images[0]), each, BUDGET)
