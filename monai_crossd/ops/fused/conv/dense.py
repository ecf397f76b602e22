"""Convolution of large images one after the other by torch's library, each with its own kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.halves import is_halved
from ..images.layout import is_channels_last
from ..sizes import precision
from .mix_launch import empty_weights

__all__ = ["convolve_each", "gradients_of_each", "is_dense"]

DENSE = 2**34  # multiplications of an image, 50 to 100 us of an H200, from where a call, some 70, takes no longer


def is_dense(x: Tensor, U: Tensor, pixels: int) -> bool:
    """Whether every image of ``x`` fills a GPU by itself, and its kernel is no larger than what it makes of it.

    In TF32, which is halves, and for contiguous images of 16 bits the kernels here are faster; but they count in 32
    bits within an image.

    Args:
        x: ``(B, C_in, H, W)``; those that are neither contiguous nor channels_last are not.
        U: knowledge base ``(C_out, C_in/groups, K, K, K)``.
        pixels: of an output image.
    """
    kernel = U.numel() // U.shape[2]
    wide = max(x[0].numel(), len(U) * pixels) >= 2**31
    last = x.is_contiguous(memory_format=torch.channels_last)
    faster = is_halved(x.dtype) or (x.element_size() == 2 and not last)
    if not wide and (faster or kernel * pixels < DENSE or kernel > len(U) * pixels):
        return False
    known = last or x.is_contiguous()
    library = torch.backends.cudnn  # whose `is_acceptable` leaves bfloat16 out
    return known and x.is_cuda and library.enabled and library.is_available()


def convolve_each(
    x: Tensor, k: Tensor, y: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> None:
    """Convolve every image with its own kernel and write into ``y``, by one call of the library an image.

    Args:
        x: ``(B, C_in, H, W)`` of any strides, which are copied one by one where they are not as ``y``.
        k: ``(B, K*K, C_out, C_in/groups)``, of ``mixed``.
        y: ``(B, C_out, H_out, W_out)``, contiguous or channels_last, written.
        stride: in pixels, per axis.
        padding: in pixels, per axis.
        dilation: in pixels, per axis.
        groups: of the convolution.
    """
    for image, kernel, out in zip(x.split(1), _as_weights(k), y.split(1), strict=True):
        if not x.is_cuda:
            out.copy_(F.conv2d(image, kernel, None, stride, padding, dilation, groups))
            continue
        torch.ops.aten.cudnn_convolution.out(
            _laid_out(image, y), kernel, padding, stride, dilation, groups, torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic, precision(x.dtype) == "tf32", out=out,
        )  # fmt: skip


def gradients_of_each(
    dy: Tensor, x: Tensor, kernels: Callable[[bool], Tensor], dx: Tensor | None, size: int, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """Gradients of :func:`convolve_each`, by one call of the library an image too.

    Args:
        dy: ``(B, C_out, H_out, W_out)`` of any strides.
        x: ``(B, C_in, H, W)``, contiguous or channels_last; what is not named here as of :func:`convolve_each`.
        kernels: makes all of them by ``mixed``, transposed where it is given true; not called without ``dx``.
        dx: in the shape and memory format of ``x``, written; ``None`` where it is not needed.
        size: ``K``.
        stride: see ``x``.
        padding: see ``x``.
        dilation: see ``x``.
        groups: see ``x``.

    Returns:
        the gradient to the kernels, ``(B, 1, K*K, C_out, C_in/groups)``, whose values lie as those do.
    """
    given = stride, padding, dilation, False, (0, 0), groups
    if dx is not None:
        around = [apart * (size - 1) - pad for pad, apart in zip(padding, dilation, strict=True)]
        if max(stride) == 1 and min(around) >= 0:  # a convolution itself, for which the library is faster
            convolve_each(dy, kernels(True), dx, stride, around, dilation, groups)
        else:
            _write_gradients(0, dx.split(1), dy, x, _as_weights(kernels(False)), given)
    shape = (len(x), size * size, dy.shape[1], x.shape[1] // groups)
    dk = empty_weights(shape, is_channels_last(x), x.dtype, x.device)
    weights = _as_weights(dk)  # for their shape too
    _write_gradients(1, weights, dy, x, weights, given)
    return dk[:, None]


def _write_gradients(
    number: int, into: Iterable[Tensor], dy: Tensor, x: Tensor, weights: Tensor, given: tuple[Any, ...]
) -> None:
    """The library's own gradient of every image, or with ``number`` one that of its kernel."""
    wanted = [number == 0, number == 1, False]
    for out, gradient, image, kernel in zip(into, dy.split(1), x.split(1), weights, strict=True):
        found = torch.ops.aten.convolution_backward(_laid_out(gradient, x), image, kernel, None, *given, wanted)
        out.copy_(found[number])


def _laid_out(image: Tensor, like: Tensor) -> Tensor:
    """In the memory format of other images, copied where it is not."""
    return image.contiguous(memory_format=torch.channels_last if is_channels_last(like) else torch.contiguous_format)


def _as_weights(k: Tensor) -> Tensor:
    """Kernels ``(B, K*K, C', C/groups)`` as the library's weights, ``(B, C', C/groups, K, K)``, which are a view."""
    size = math.isqrt(k.shape[1])
    return k.unflatten(1, (size, size)).permute(0, 3, 4, 1, 2)
