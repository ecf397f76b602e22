"""Every image convolved with its own kernel, in eager mode: the autograd function that all such calls go through.

The batch is cut into parts whose temporary tensors stay small, and the backward pass makes them anew, so the kernels of
a whole batch never stand in memory. Two forms, each a preparation that is cheap and one dense call:

- ``grouped``: one kernel per image, ``k = U M^T``; the images of a part are the groups of one convolution.
- ``columns``: no kernels; ``y = U (M^T columns(x))``, one product of matrices with ``K^3`` instead of ``K^2`` numbers
  per channel. ``K`` times the operations of the convolution, but nothing to form per image: it wins where an image has
  few pixels.

``U`` is the knowledge base, ``M`` the operator of :func:`monai_crossd.ops.shift_operator`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .memory import scratch

__all__ = ["ConvArguments", "apart", "conv_per_image", "graph_of_gradients", "grouped_conv", "is_batched"]

Pair = tuple[int, int]

#: bytes of a part's temporary tensors: on a CPU what its cache holds, on a GPU what memory can spare
_PART = {"cpu": 8 << 20, "cuda": 256 << 20}


class ConvArguments(NamedTuple):
    """What a convolution is told, in pixels per axis."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    transposed: bool = False
    output_padding: Pair = (0, 0)
    groups: int = 1


def conv_per_image(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, form: str) -> Tensor:
    """Convolve every image with the kernel that its operator makes of the knowledge base.

    Args:
        x: images ``(B, C_in, H, W)``.
        weight: ``U``, ``(C_out, C_in/groups, K, K, K)``; transposed: ``(C_in, C_out/groups, K, K, K)``.
        operator: ``M``, ``(B, K*K, K*K*K)``; all three of one dtype.
        conv: arguments.
        form: ``"grouped"``, or for no transposed convolution of one group ``"columns"``.

    Returns:
        ``(B, C_out, H_out, W_out)``.

    Raises:
        ValueError: for images smaller than the kernel.
    """
    if not conv.transposed and min(_output_size(x, weight.shape[-1], conv)) < 1:
        size, given = weight.shape[-1], tuple(x.shape)
        raise ValueError(f"`x` must be larger than the kernel after padding, got {given} and kernel size {size}.")
    return _PerImageConv.apply(x, weight.contiguous(), operator, conv, form)


def grouped_conv(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments) -> Tensor:
    """The grouped form for a whole batch at once, of differentiable calls: for graphs and for higher derivatives."""
    return _convolved(x, _kernels(weight, operator), conv)


class _PerImageConv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, form: str) -> Tensor:
        step = _FORMS[form]
        parts = [step.forward(x[part], weight, operator[part], conv) for part in _parts(x, weight, conv, form)]
        y = _joined(parts)
        return torch.ops.aten._unsafe_view(y, y.shape)  # no view to autograd, so that it may be changed in place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, operator, ctx.conv, ctx.form = inputs
        ctx.save_for_backward(x, weight, operator)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, operator = ctx.saved_tensors
        if torch.is_grad_enabled() or is_batched(dy):  # a graph of the gradients is wanted, or what can be batched
            needed = ctx.needs_input_grad[:3]
            with torch.enable_grad():
                x, weight, operator = apart(x, weight, operator)
                y = grouped_conv(x, weight, operator, ctx.conv)
                return *graph_of_gradients(y, (x, weight, operator), needed, dy), None, None
        step, needs_x = _FORMS[ctx.form], ctx.needs_input_grad[0]
        dx, doperator, dweight = [], [], None
        for part in _parts(x, weight, ctx.conv, ctx.form):
            of_x, of_weight, of_operator = step.backward(dy[part], x[part], weight, operator[part], ctx.conv, needs_x)
            of_weight = of_weight.view(weight.shape)
            wide = of_weight.float() if of_weight.dtype.itemsize < 4 else of_weight  # so that 16-bit parts add up
            dweight = wide if dweight is None else dweight + wide
            dx.append(of_x)
            doperator.append(of_operator)
        assert dweight is not None
        return _joined(dx) if needs_x else None, dweight.to(weight.dtype), _joined(doperator), None, None


def is_batched(dy: Tensor) -> bool:
    """Whether these are gradients of many outputs at once, as of ``is_grads_batched``: ``out=`` cannot take them."""
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(dy) or functorch.is_functorch_wrapped_tensor(dy)


def apart(*inputs: Any) -> list[Any]:
    """The same tensors, of which none comes from another: an operator is made of the images that it goes with."""
    return [None if t is None else t.view_as(t) for t in inputs]


def graph_of_gradients(
    y: Tensor, inputs: Sequence[Tensor | None], needed: Sequence[bool], dy: Tensor
) -> list[Tensor | None]:
    """Differentiable gradients of ``y`` to those of its :func:`apart` inputs that are needed, ``None`` for others."""
    wanted = [t for t, need in zip(inputs, needed, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return [next(found) if need else None for need in needed]


def _joined(parts: list[Any]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _parts(x: Tensor, weight: Tensor, conv: ConvArguments, form: str) -> Iterator[slice]:
    """Cut the batch so that a part's temporary tensors stay below the budget."""
    budget = _PART.get(x.device.type, _PART["cuda"])
    if form == "columns":
        h, w = _output_size(x, weight.shape[-1], conv)
        numbers = x.shape[1] * weight[0, 0].numel() * h * w
        budget = max(budget, weight.numel() * weight.element_size())  # a part's gradient of U is as large as U
    else:
        numbers = weight.numel() // weight.shape[-1]
    size = max(1, budget // (numbers * x.element_size()))
    for start in range(0, len(x), size):
        yield slice(start, start + size)


def _output_size(x: Tensor, size: int, conv: ConvArguments) -> tuple[int, int]:
    """Rows and columns of a convolution's output."""
    rows, columns = (
        (x.shape[2 + axis] + 2 * conv.padding[axis] - conv.dilation[axis] * (size - 1) - 1) // conv.stride[axis] + 1
        for axis in (0, 1)
    )
    return rows, columns


# grouped -------------------------------------------------------------------------------------------------------------


def _folded(images: Tensor) -> Tensor:
    b, c, h, w = images.shape
    return images.reshape(1, b * c, h, w)


def _convolved(x: Tensor, kernels: Tensor, conv: ConvArguments) -> Tensor:
    y = torch.convolution(_folded(x), kernels, None, *_for_images(conv, len(x)))
    return y.view(len(x), -1, y.shape[2], y.shape[3])


def _kernels(weight: Tensor, operator: Tensor, reuse: bool = False) -> Tensor:
    """``U M^T`` of all images by one product, ``(B*C0, C1, K, K)``; ``reuse``: in memory that the next part takes."""
    c0, c1, size = weight.shape[:3]
    b, taps, voxels = operator.shape
    product = scratch("product", (c0 * c1, b * taps), operator) if reuse else None
    product = torch.mm(weight.reshape(c0 * c1, voxels), operator.reshape(b * taps, voxels).t(), out=product)
    kernels = product.view(c0 * c1, b, taps).transpose(0, 1)
    if reuse:
        kernels = scratch("kernels", (b, c0 * c1, taps), operator).copy_(kernels)
    return kernels.reshape(b * c0, c1, size, size)


def _grouped_forward(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments) -> Tensor:
    return _convolved(x, _kernels(weight, operator, reuse=True), conv)


def _for_images(conv: ConvArguments, images: int) -> tuple[Any, ...]:
    return (*conv[:-1], conv.groups * images)


def _grouped_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    operator: Tensor,
    conv: ConvArguments,
    needs_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    b, taps, voxels = operator.shape
    u = weight.reshape(-1, voxels)  # (C0*C1, K*K*K)
    dx, dkernels, _ = torch.ops.aten.convolution_backward(
        _folded(dy),
        _folded(x),
        _kernels(weight, operator, reuse=True),
        None,
        *_for_images(conv, b),
        [needs_x, True, False],
    )
    turned = scratch("product", (len(u), b, taps), operator)
    dkernels = turned.copy_(dkernels.reshape(b, -1, taps).transpose(0, 1)).view(-1, b * taps)  # (C0*C1, B*K*K)
    dweight = dkernels @ operator.reshape(b * taps, voxels)
    doperator = (dkernels.t() @ u).view(operator.shape)
    return dx.view(x.shape) if needs_x else None, dweight, doperator


# columns -------------------------------------------------------------------------------------------------------------


def _taps(padded: Tensor, size: int, conv: ConvArguments, image: tuple[int, int]) -> Iterator[Tensor]:
    """What every tap of a kernel reads of images ``(B, H, W, C)``: views ``(B, H_out, W_out, C)``."""
    (stride_h, stride_w), (dilation_h, dilation_w) = conv.stride, conv.dilation
    for i in range(size):
        rows = slice(i * dilation_h, i * dilation_h + (image[0] - 1) * stride_h + 1, stride_h)
        for j in range(size):
            first = j * dilation_w
            yield padded[:, rows, first : first + (image[1] - 1) * stride_w + 1 : stride_w]


def _columns(x: Tensor, size: int, conv: ConvArguments) -> Tensor:
    """``(B, C, H, W)`` to ``(B, H_out*W_out*C, K*K)``."""
    (pad_h, pad_w), image = conv.padding, _output_size(x, size, conv)
    padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h)).permute(0, 2, 3, 1).contiguous()
    columns = scratch("columns", (len(x), *image, x.shape[1], size * size), x)
    return torch.stack(list(_taps(padded, size, conv, image)), dim=-1, out=columns).view(len(x), -1, size * size)


def _mixed(columns: Tensor, operator: Tensor) -> Tensor:
    """``(B, H_out*W_out*C, K*K*K)``, what the knowledge base is multiplied with."""
    mixed = scratch("mixed", (*columns.shape[:2], operator.shape[2]), operator)
    return torch.bmm(columns, operator, out=mixed)


def _columns_forward(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments) -> Tensor:
    image = _output_size(x, weight.shape[-1], conv)
    mixed = _mixed(_columns(x, weight.shape[-1], conv), operator)
    y = mixed.view(len(x) * image[0] * image[1], -1) @ weight.view(len(weight), -1).t()
    return y.view(len(x), *image, -1).permute(0, 3, 1, 2).contiguous(memory_format=_memory_format(x))


def _columns_backward(
    dy: Tensor, x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    (b, channels, height, width), (outputs, *image), size = x.shape, dy.shape[1:], weight.shape[-1]
    columns, dy = _columns(x, size, conv), dy.permute(0, 2, 3, 1).reshape(-1, outputs)
    mixed = _mixed(columns, operator).view(len(dy), -1)
    dweight = dy.t() @ mixed
    dmixed = torch.mm(dy, weight.view(outputs, -1), out=mixed).view(b, -1, size**3)
    doperator = torch.bmm(columns.transpose(1, 2), dmixed)  # (B, K*K, K*K*K)
    dx = None
    if needs_x:
        dcolumns = torch.bmm(dmixed, operator.transpose(1, 2), out=columns).view(b, *image, channels, size * size)
        pad_h, pad_w = conv.padding
        padded = dy.new_zeros(b, height + 2 * pad_h, width + 2 * pad_w, channels)
        for read, gradient in zip(_taps(padded, size, conv, (image[0], image[1])), dcolumns.unbind(-1), strict=True):
            read += gradient
        dx = padded[:, pad_h : pad_h + height, pad_w : pad_w + width].permute(0, 3, 1, 2)
        dx = dx.contiguous(memory_format=_memory_format(x))
    return dx, dweight, doperator


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


class _Form(NamedTuple):
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor | None, Tensor, Tensor]]


_FORMS = {
    "grouped": _Form(_grouped_forward, _grouped_backward),
    "columns": _Form(_columns_forward, _columns_backward),
}
