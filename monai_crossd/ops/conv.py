"""Convolution of every image with its own shifted kernel, and the choice of how."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .fused.availability import DTYPES, available
from .per_image import ConvArguments, conv_per_image, output_size
from .shift import shift_operator, shifted_kernels

__all__ = ["crossd_conv2d", "crossd_conv_transpose2d", "runs_fused"]

# channels, and pixels of an output image, that forms are chosen by
_FEW_CHANNELS, _LARGE, _SMALL, _TINY = 8, 2048, 256, 32


def _backend(backend: str, pixels: int, kernel_size: int, channels: int = 0, cpu: bool = False) -> str:
    """Resolve ``"auto"``: the one place where the way is chosen.

    Graphs with a dynamic batch cannot hold a number of groups equal to it, so tracing and exporting take ``unfold``.
    Otherwise ``columns`` where an output image has so few pixels that forming its kernel, ``K^3`` products per number,
    costs more than the ``K`` times longer columns. The numbers of pixels and channels were measured on a CPU
    (``docs/benchmark.md``). On a GPU layers do not come here, but go by :func:`runs_fused`.

    Args:
        backend: as of :func:`crossd_conv2d`.
        pixels: of an output image.
        kernel_size: ``K``.
        channels: of the input and one group.
        cpu: whether images are on a CPU, and may take forms that are for it.
    """
    if backend not in ("auto", "grouped", "each", "matrices", "columns", "unfold", "triton"):
        raise ValueError(
            "`backend` must be 'auto', 'grouped', 'each', 'matrices', 'columns', 'unfold' or 'triton', got "
            f"'{backend}'."
        )
    if not torch.jit.is_scripting():
        if backend == "auto" and _leaves_python():
            return "unfold"
    if backend != "auto":
        return backend
    if not torch.jit.is_scripting():
        if cpu:
            return _on_cpu(pixels, kernel_size, channels)
    return "columns" if pixels < 2 * kernel_size**3 else "grouped"


def _on_cpu(pixels: int, kernel_size: int, channels: int) -> str:
    """The form by itself for images on a CPU; arguments as of :func:`_backend`."""
    if pixels < min(kernel_size**3, _TINY):
        return "columns"
    if channels < _FEW_CHANNELS:
        return "each" if pixels >= _LARGE else "grouped"
    return "matrices" if pixels < _SMALL else "grouped"


def _leaves_python() -> bool:
    """Whether a graph is made for others than Python.

    ``torch.compiler.is_exporting`` would say yes within every ``torch.compile`` up to torch 2.11.
    """
    return torch.jit.is_tracing() or torch.compiler._is_exporting_flag


@torch.jit.ignore
def runs_fused(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer on images ``x`` runs on the fused kernels of predictor, operator and convolution.

    They need a GPU and Triton, and real tensors: graphs that leave Python keep to torch's own operators.
    """
    if _leaves_python():
        return False
    return available(x) and x.dtype in DTYPES and weight.dtype in DTYPES and x.numel() > 0


def crossd_conv2d(
    x: Tensor,
    weight: Tensor,
    s: Tensor,
    kernel_size: int,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """``y[b] = conv2d(x[b], middle slice of U shifted by s[b])`` with zero padding.

    Args:
        x: ``(B, C_in, H, W)``.
        weight: knowledge base ``U`` of shape ``(C_out, C_in/groups, K, K, K)``.
        s: shifts in voxels of shape ``(B, 3)``, float32 at least.
        kernel_size: ``K``, given as a number so that tracing keeps it one.
        stride: in pixels, per axis.
        padding: in pixels, per axis, on both sides.
        dilation: in pixels, per axis.
        groups: of every image's own convolution.
        backend: ``"auto"``; ``"grouped"``, ``"each"`` and ``"matrices"``, one kernel per image; ``"columns"``, mixed
            columns of the images; ``"unfold"``, for graphs; ``"triton"``, fused kernels on a GPU, see
            :func:`runs_fused`. ``per_image`` describes them; ``"matrices"`` and ``"columns"`` take one group.

    Returns:
        ``(B, C_out, H_out, W_out)`` in the dtype of ``x``, or that of autocast.

    Raises:
        ValueError: for an unknown backend, and for one that takes one group with several.
        RuntimeError: for ``"triton"`` where its kernels cannot run.
    """
    h_out, w_out = output_size(x, kernel_size, stride, padding, dilation)
    chosen = _backend(backend, h_out * w_out, kernel_size, weight.shape[1], x.device.type == "cpu")
    if not torch.jit.is_scripting():
        if chosen != "unfold" and (len(x) > 0 or chosen == "triton"):
            if groups > 1 and chosen in ("matrices", "columns"):
                if backend == chosen:
                    raise ValueError(f"`backend` '{chosen}' needs `groups` 1, got {groups}; choose 'grouped'.")
                chosen = "grouped"
            return _eager(x, weight, s, ConvArguments(stride, padding, dilation, groups=groups), chosen)
    b, c_in, c_out = x.shape[0], x.shape[1], weight.shape[0]
    taps = (c_in // groups) * kernel_size * kernel_size
    kernels = shifted_kernels(weight, s, kernel_size).reshape(b, groups, c_out // groups, taps)
    columns = F.unfold(x, (kernel_size, kernel_size), dilation, padding, stride)
    y = torch.matmul(kernels, columns.reshape(b, groups, taps, h_out * w_out))  # (B, G, C_out/G, H_out*W_out)
    return y.reshape(b, c_out, h_out, w_out)


def crossd_conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    s: Tensor,
    kernel_size: int,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
    backend: str = "auto",
) -> Tensor:
    """``y[b] = conv_transpose2d(x[b], middle slice of U shifted by s[b])``.

    Args:
        x: ``(B, C_in, H, W)``.
        weight: knowledge base ``U`` of shape ``(C_in, C_out/groups, K, K, K)``.
        s: shifts in voxels of shape ``(B, 3)``, float32 at least.
        kernel_size: ``K``, given as a number so that tracing keeps it one.
        stride: in pixels, per axis.
        padding: in pixels, per axis, as of the convolution that this one transposes.
        output_padding: in pixels, per axis, added on one side.
        groups: of every image's own convolution.
        dilation: in pixels, per axis.
        backend: ``"auto"``, ``"grouped"`` or ``"unfold"``.

    Returns:
        ``(B, C_out, H_out, W_out)`` in the dtype of ``x``, or that of autocast.

    Raises:
        ValueError: for an unknown backend, and for those that a transposed convolution has not.
    """
    if backend in ("each", "matrices", "columns", "triton"):
        raise ValueError(f"`backend` '{backend}' has no transposed form; choose 'grouped'.")
    chosen = _backend(backend, 2 * kernel_size * kernel_size * kernel_size, kernel_size)  # never few pixels
    if not torch.jit.is_scripting():
        if chosen != "unfold" and len(x) > 0:
            arguments = ConvArguments(stride, padding, dilation, True, output_padding, groups)
            return _eager(x, weight, s, arguments, "grouped")
    b, c_in, h, w = x.shape
    c_out, taps = weight.shape[1] * groups, kernel_size * kernel_size
    kernels = shifted_kernels(weight, s, kernel_size).reshape(b, groups, c_in // groups, (c_out // groups) * taps)
    columns = torch.matmul(kernels.transpose(2, 3), x.reshape(b, groups, c_in // groups, h * w))
    columns = columns.reshape(b, c_out * taps, h * w)
    h_full = (h - 1) * stride[0] + dilation[0] * (kernel_size - 1) + 1
    w_full = (w - 1) * stride[1] + dilation[1] * (kernel_size - 1) + 1
    y = F.fold(columns, (h_full, w_full), (kernel_size, kernel_size), dilation, (0, 0), stride)
    after = (output_padding[0] - padding[0], output_padding[1] - padding[1])
    return F.pad(y, [-padding[1], after[1], -padding[0], after[0]])  # (B, C_out, H_out, W_out)


def _eager(x: Tensor, weight: Tensor, s: Tensor, arguments: ConvArguments, form: str) -> Tensor:
    """What needs no fixed graph: one dtype for all, then the form."""
    if form == "triton":
        # registers operators, which takes longer than all other imports here
        from .fused.conv.operator import fused_conv2d

        operator = shift_operator(s, weight.shape[-1]).float()
        return fused_conv2d(x, weight, operator, *arguments[:3], arguments.groups)
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        x, weight = x.to(torch.get_autocast_dtype(kind)), weight.to(torch.get_autocast_dtype(kind))
    operator = shift_operator(s, weight.shape[-1]).to(weight.dtype)
    if torch.compiler.is_compiling():
        from .per_image.operator import conv_in_graph  # registers operators too

        return conv_in_graph(x, weight, operator, arguments, form)
    return conv_per_image(x, weight, operator, arguments, form)
