"""A whole layer as one operator without side effects, ``monai_crossd::fused_layer``: what graphs of torch.compile have.

Within a graph it is launched as in eager mode, by records and CUDA graphs. What differs: it leaves running statistics
alone, and takes them only where it normalizes by them; and its output is channels_last, which is faster for what comes
next, as the compiler chooses for plain convolutions too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...in_graphs import define, refuse_second_derivative, where_needed
from ...per_image import ConvArguments, output_size
from ..conv import passes as fused_conv
from ..conv.operator import check_images
from ..images.layout import empty_images, is_channels_last
from ..predictor.launch import Predictor
from .launch import Call, state_size
from .passes import convolved, gradients, is_last, way_of

__all__: list[str] = []

_PARAMETERS = "Tensor U, Tensor w1, Tensor b1, Tensor gamma, Tensor beta, Tensor w2, Tensor b2"
_ARGUMENTS = "int[] stride, int[] padding, int[] dilation, int groups, bool training, float eps"
_OPERATOR = (
    f"(Tensor x, Tensor? padded, {_PARAMETERS}, Tensor? mean, Tensor? var, {_ARGUMENTS}, bool keep) -> (Tensor, Tensor)"
)
_GRADIENT = (
    f"(Tensor dy, Tensor x, Tensor? padded, {_PARAMETERS}, Tensor state, {_ARGUMENTS}, bool[] need) -> "
    f"({', '.join(['Tensor'] * 9)})"
)


def forward(x, padded, U, w1, b1, gamma, beta, w2, b2, mean, var, *given) -> tuple[Tensor, Tensor]:
    """The convolution, and what backward needs if it is to be kept."""
    call = _call(x, *given)
    running = () if call.training else (mean, var, mean)  # the number of batches is for training
    y, state, _ = convolved(x, padded, U, (w1, b1, gamma, beta, w2, b2), running, call)
    return y, x.new_empty(0, dtype=torch.float32) if state is None else state


def backward(dy, x, padded, U, w1, b1, gamma, beta, w2, b2, state, *given) -> tuple[Tensor, ...]:
    """Gradients to images, padded images, the knowledge base and the predictor; those not needed are empty."""
    *arguments, need = given
    call, net = _call(x, *arguments), (w1, b1, gamma, beta, w2, b2)
    way = way_of(x, x if padded is None else padded, U, net, call)
    found = gradients(way, dy, x, padded, U, net, state, call, need)
    return tuple(x.new_empty(0) if one is None else one for one in found)


def _call(x: Tensor, stride, padding, dilation, groups: int, training: bool, eps: float, keep: bool = True) -> Call:
    """Ranges are kept for all float32, so that a state's size does not depend on what cuDNN is allowed to."""
    conv = ConvArguments(tuple(stride), tuple(padding), tuple(dilation), groups=groups)
    return Call(conv, training, eps, None, keep, x.dtype == torch.float32, True)


def _fake(x, padded, U, w1, b1, gamma, beta, w2, b2, mean, var, *given):
    call, images = _call(x, *given), x if padded is None else padded
    check_images(images, U, *call.conv[:3], call.conv.groups)
    size = output_size(images, U.shape[2], *call.conv[:3])
    shape = (len(x), len(U), *size)
    way = fused_conv.chosen_way(images, U, size, call.conv.groups, True)
    kept = state_size(way, shape, x, U, Predictor(w1, b1, gamma, beta, w2, b2), call) if call.keep else 0
    return empty_images(images, shape, is_last(images, call)), x.new_empty(kept, dtype=torch.float32)


def _fake_backward(dy, x, padded, U, w1, b1, gamma, beta, w2, b2, state, *given):
    need, images = given[-1], x if padded is None else padded
    dimages = empty_images(x, images.shape, is_channels_last(images)) if need[padded is not None] else x.new_empty(0)
    dx = empty_images(x, x.shape, True) if padded is not None and need[0] else x.new_empty(0)
    of_images = (dimages, dx) if padded is None else (dx, dimages)
    parameters = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (w1, b1, gamma, beta, w2, b2))
    return *of_images, U.new_empty(U.shape if need[2] else (0,)), *parameters


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _, _, stride, padding, dilation, groups, training, eps, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.arguments = stride, padding, dilation, groups, training, eps


def _differentiate(ctx: Any, dy: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad
    if dy is None:
        return (None,) * len(needed)
    given = (*ctx.saved_tensors, *ctx.arguments, list(needed[:3]))
    return where_needed(torch.ops.monai_crossd.fused_layer_backward(dy, *given), needed)


define("fused_layer", _OPERATOR, forward, _fake, _differentiate, _save)
define("fused_layer_backward", _GRADIENT, backward, _fake_backward, refuse_second_derivative)
