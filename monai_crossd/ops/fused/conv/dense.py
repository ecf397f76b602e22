"""Convolution of large images one after the other by torch's library, each with its own kernel."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.halves import is_halved
from ..sizes import precision

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
        x: ``(B, C_in, H, W)``, contiguous or channels_last.
        k: ``(B, K*K, C_out, C_in/groups)`` from ``mix``.
        y: ``(B, C_out, H_out, W_out)`` in the memory format of ``x``, written.
        stride: in pixels, per axis.
        padding: in pixels, per axis.
        dilation: in pixels, per axis.
        groups: of the convolution.
    """
    for image, kernel, out in zip(x.split(1), _as_weights(k, x), y.split(1), strict=True):
        if not x.is_cuda:
            out.copy_(F.conv2d(image, kernel, None, stride, padding, dilation, groups))
            continue
        torch.ops.aten.cudnn_convolution.out(
            image, kernel, padding, stride, dilation, groups, torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic, precision(x.dtype) == "tf32", out=out,
        )  # fmt: skip


def gradients_of_each(
    dy: Tensor, x: Tensor, k: Tensor, dx: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """Gradients of :func:`convolve_each`, by one call of the library an image too.

    Args:
        dy: ``(B, C_out, H_out, W_out)`` of any strides.
        x: as of :func:`convolve_each`, and so what is not named here.
        k: see ``x``.
        dx: in the shape of ``x``, written; ``None`` where it is not needed.
        stride: see ``x``.
        padding: see ``x``.
        dilation: see ``x``.
        groups: see ``x``.

    Returns:
        the gradient to ``k``, as ``kernel_grad`` returns it: ``(B, 1, K*K, C_out, C_in/groups)``.
    """
    (batch, taps, c_out, red), size = k.shape, math.isqrt(k.shape[1])
    dk = torch.empty((batch, size, size, c_out, red), dtype=x.dtype, device=x.device)
    weights = _as_weights(k, x)
    with _streams(x.device) as streams:
        each = zip(streams, dy.split(1), x.split(1), weights, strict=False)
        for b, (stream, gradient, image, kernel) in enumerate(each):
            with torch.cuda.stream(stream):
                dimage, dkernel, _ = torch.ops.aten.convolution_backward(
                    gradient, image, kernel, None, stride, padding, dilation, False, (0, 0), groups,
                    [dx is not None, True, False],
                )  # fmt: skip
                if dx is not None:
                    dx[b].copy_(dimage[0])
                dk[b].copy_(dkernel.permute(2, 3, 0, 1))
    return dk.view(batch, 1, taps, c_out, red)


@contextlib.contextmanager
def _streams(device: torch.device) -> Iterator[Iterator[torch.cuda.Stream | None]]:
    """The current stream and another, in turn, so that an image's copies are made beside the next one's products."""
    if device.type != "cuda":
        yield itertools.repeat(None)
        return
    current, other = torch.cuda.current_stream(device), _other_stream(device)
    other.wait_stream(current)
    try:
        yield itertools.cycle((current, other))
    finally:
        current.wait_stream(other)


@functools.cache
def _other_stream(device: torch.device) -> torch.cuda.Stream:
    """Always the same, so that torch's allocator gives it the same memory again."""
    return torch.cuda.Stream(device)


def _as_weights(k: Tensor, x: Tensor) -> Tensor:
    """Kernels as the library's weights, ``(B, C_out, C_in/groups, K, K)``, in the memory format of ``x``."""
    (batch, _, c_out, red), size, last = k.shape, math.isqrt(k.shape[1]), x.stride(1) == 1
    k = (k.permute(0, 2, 1, 3) if last else k.permute(0, 2, 3, 1)).contiguous()
    return (
        k.view(batch, c_out, size, size, red).permute(0, 1, 4, 2, 3) if last else k.view(batch, c_out, red, size, size)
    )
