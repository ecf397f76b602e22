"""Convolution of every image with its own kernel, and the choice of how.

``grouped`` folds the batch into the channels and is one grouped convolution: fast in eager mode, but its number of
groups is the batch size, which graphs with a dynamic batch cannot hold. ``unfold`` is columns and a matrix product,
which they can; it is what tracing and exporting take.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["conv2d_per_sample", "conv_transpose2d_per_sample"]


def _backend(backend: str, batch: int) -> str:
    """Resolve ``"auto"``: the one place where the way is chosen."""
    if backend not in ("auto", "grouped", "unfold"):
        raise ValueError(f"`backend` must be 'auto', 'grouped' or 'unfold', got '{backend}'.")
    if backend != "auto":
        return backend
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            return "unfold"
    return "grouped" if batch > 0 else "unfold"


def conv2d_per_sample(
    x: Tensor,
    kernels: Tensor,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """``y[b] = conv2d(x[b], kernels[b])`` with zero padding.

    Args:
        x: ``(B, C_in, H, W)``.
        kernels: ``(B, C_out, C_in/groups, K, K)``.
        stride: in pixels, per axis.
        padding: in pixels, per axis, on both sides.
        dilation: in pixels, per axis.
        groups: of every image's own convolution.
        backend: ``"auto"``, ``"grouped"`` or ``"unfold"``.

    Returns:
        ``(B, C_out, H_out, W_out)``.

    Raises:
        ValueError: for an unknown backend.
    """
    b, c_in, h, w = x.shape
    c_out, size = kernels.shape[1], kernels.shape[3]
    if _backend(backend, b) == "grouped":
        kernels = kernels.reshape(b * c_out, c_in // groups, size, size)
        x = x.reshape(1, b * c_in, h, w)
        y = F.conv2d(x, kernels, None, stride, padding, dilation, b * groups)  # (1, B*C_out, H_out, W_out)
        return y.view(b, c_out, y.shape[2], y.shape[3])
    h_out = (h + 2 * padding[0] - dilation[0] * (size - 1) - 1) // stride[0] + 1
    w_out = (w + 2 * padding[1] - dilation[1] * (size - 1) - 1) // stride[1] + 1
    taps = (c_in // groups) * size * size
    columns = F.unfold(x, (size, size), dilation, padding, stride).reshape(b, groups, taps, h_out * w_out)
    y = torch.matmul(kernels.reshape(b, groups, c_out // groups, taps), columns)  # (B, G, C_out/G, H_out*W_out)
    return y.reshape(b, c_out, h_out, w_out)


def conv_transpose2d_per_sample(
    x: Tensor,
    kernels: Tensor,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
    backend: str = "auto",
) -> Tensor:
    """``y[b] = conv_transpose2d(x[b], kernels[b])``.

    Args:
        x: ``(B, C_in, H, W)``.
        kernels: ``(B, C_in, C_out/groups, K, K)``.
        stride: in pixels, per axis.
        padding: in pixels, per axis, as of the convolution that this one transposes.
        output_padding: in pixels, per axis, added on one side.
        groups: of every image's own convolution.
        dilation: in pixels, per axis.
        backend: ``"auto"``, ``"grouped"`` or ``"unfold"``.

    Returns:
        ``(B, C_out, H_out, W_out)``.

    Raises:
        ValueError: for an unknown backend.
    """
    b, c_in, h, w = x.shape
    c_out, size = kernels.shape[2] * groups, kernels.shape[3]
    if _backend(backend, b) == "grouped":
        kernels = kernels.reshape(b * c_in, c_out // groups, size, size)
        x = x.reshape(1, b * c_in, h, w)
        y = F.conv_transpose2d(x, kernels, None, stride, padding, output_padding, b * groups, dilation)
        return y.view(b, c_out, y.shape[2], y.shape[3])
    kernels = kernels.reshape(b, groups, c_in // groups, (c_out // groups) * size * size)
    columns = torch.matmul(kernels.transpose(2, 3), x.reshape(b, groups, c_in // groups, h * w))
    columns = columns.reshape(b, c_out * size * size, h * w)
    h_full = (h - 1) * stride[0] + dilation[0] * (size - 1) + 1
    w_full = (w - 1) * stride[1] + dilation[1] * (size - 1) + 1
    y = F.fold(columns, (h_full, w_full), (size, size), dilation, (0, 0), stride)
    after = (output_padding[0] - padding[0], output_padding[1] - padding[1])
    return F.pad(y, [-padding[1], after[1], -padding[0], after[0]])  # (B, C_out, H_out, W_out)
