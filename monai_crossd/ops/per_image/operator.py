"""The same as one operator, ``monai_crossd::conv_per_image``: what graphs of torch.compile have.

A compiler that sees the parts makes kernels for a whole batch at once, which took a network up to fifty times as long
as its plain one. Results have the memory format of the images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..in_graphs import define, refuse_second_derivative, where_needed
from .arguments import ConvArguments, output_size, transposed_size
from .function import check_images, convolved, gradients
from .taps import memory_format

__all__ = ["conv_in_graph"]

_ARGUMENTS = "int[] stride, int[] padding, int[] dilation, bool transposed, int[] output_padding, int groups, str form"
_OPERATOR = f"(Tensor x, Tensor weight, Tensor operator, {_ARGUMENTS}) -> Tensor"
_GRADIENT = (
    f"(Tensor dy, Tensor x, Tensor weight, Tensor operator, {_ARGUMENTS}, bool needs_x) -> (Tensor, Tensor, Tensor)"
)


def conv_in_graph(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, form: str) -> Tensor:
    """What ``conv_per_image`` is in a graph, with the same arguments."""
    return torch.ops.monai_crossd.conv_per_image(x, weight, operator, *conv, form)


def forward(x, weight, operator, *given) -> Tensor:
    """What the operator does, without its dispatch."""
    *arguments, form = given
    found = convolved(x, weight.contiguous(), operator, _conv(*arguments), form)
    return found.contiguous(memory_format=memory_format(x))


def backward(dy, x, weight, operator, *given) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to images, empty where they are not needed, to the knowledge base and to the operators."""
    *arguments, form, needs_x = given
    found = gradients(dy, x, weight.contiguous(), operator, _conv(*arguments), form, needs_x)
    dx = x.new_empty(0) if found[0] is None else found[0].contiguous(memory_format=memory_format(x))
    return dx, found[1].contiguous(), found[2].contiguous()


def _conv(stride, padding, dilation, transposed: bool, output_padding, groups: int) -> ConvArguments:
    """Of lists, which are what torch hands to operators."""
    return ConvArguments(tuple(stride), tuple(padding), tuple(dilation), transposed, tuple(output_padding), groups)


def _fake(x, weight, operator, *given):
    conv, size = _conv(*given[:-1]), weight.shape[-1]
    check_images(x, weight, conv)
    image = transposed_size(x, size, conv) if conv.transposed else output_size(x, size, *conv[:3])
    shape = x.shape[0], weight.shape[1] * conv.groups if conv.transposed else weight.shape[0], *image
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _fake_backward(dy, x, weight, operator, *given):
    dx = torch.empty_like(x, memory_format=memory_format(x)) if given[-1] else x.new_empty(0)
    return dx, *(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (weight, operator))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, operator, *ctx.arguments = inputs
    ctx.save_for_backward(x, weight, operator)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad
    given = (*ctx.saved_tensors, *ctx.arguments, needed[0])
    return where_needed(torch.ops.monai_crossd.conv_per_image_backward(dy, *given), needed)


define("conv_per_image", _OPERATOR, forward, _fake, _differentiate, _save)
define("conv_per_image_backward", _GRADIENT, backward, _fake_backward, refuse_second_derivative)
