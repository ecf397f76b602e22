"""A whole layer on images by Triton kernels: predictor, shift operator and convolution.

In graphs these are three operators, ``fused_pool``, ``fused_shift_operator`` and ``fused_conv2d``. In eager mode, where
a small layer costs what Python takes to launch it, it is one autograd function whose launches ``replay`` records; for
higher derivatives it falls back on torch's own operators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..per_image import ConvArguments, apart, graph_of_gradients, grouped_conv
from ..shift import rotation_to_shift, shift_operator, softmax_pool
from . import conv as fused_conv
from . import operator as fused_operator
from . import predictor as fused_predictor
from .conv_launch import precision
from .dense import convolve_each, is_dense
from .predictor_launch import Predictor, Running, empty_grads, shape_h, write_gradients, write_pool
from .replay import repeated
from .turn import channels_last

__all__ = ["fused_layer"]


def fused_layer(
    x: Tensor, padded: Tensor | None, weight: Tensor, predictor: nn.Sequential, conv: ConvArguments
) -> Tensor:
    """Images convolved with the kernels that their predictor makes of the knowledge base.

    Args:
        x: ``(B, C_in, H, W)``, what the predictor reads.
        padded: what is convolved, ``x`` with edges of another mode than zeros; ``None`` for ``x`` itself.
        weight: knowledge base ``U`` of shape ``(C_out, C_in/groups, K, K, K)``.
        predictor: a 1x1 convolution, ``BatchNorm2d``, ``ReLU`` and a 1x1 convolution to four channels.
        conv: stride, padding with zeros, dilation and groups.

    Returns:
        ``(B, C_out, H_out, W_out)`` in the dtype of ``x``, or that of autocast, and in the memory format of what is
        convolved.

    Raises:
        RuntimeError: where the kernels cannot run.
        ValueError: for shapes or dtypes that do not fit, or if one value per channel is to be normalized by itself.
    """
    first, norm, _, last = cast("tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module, nn.Conv2d]", tuple(predictor))
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, padded = x.to(dtype), None if padded is None else padded.to(dtype)
    if (
        norm.training
        and norm.num_batches_tracked is not None
        and (norm.momentum is None or torch.compiler.is_compiling())
    ):
        norm.num_batches_tracked.add_(1)
    net = cast(tuple[Tensor, ...], (first.weight, first.bias, norm.weight, norm.bias, last.weight, last.bias))
    running: tuple[Tensor | None, ...] = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    training = norm.training or running[0] is None
    if torch.compiler.is_compiling():
        return _in_graph(x, padded, weight, net, norm, training, conv)
    if type(x) is not Tensor:  # MONAI's, which know their file: a layer has no use for that
        x, padded = x.as_subclass(Tensor), None if padded is None else padded.as_subclass(Tensor)
    fused_predictor.check(x, running[0], running[1], training)
    fused_conv.check_images(x if padded is None else padded, weight, *conv[:3], conv.groups)
    if norm.training != training:
        running = (None, None, None)
    call = _Call(conv, training, norm.eps, norm.momentum, torch.is_grad_enabled())
    return _FusedLayer.apply(x, padded, weight, *net, *running, call)


def _in_graph(
    x: Tensor, padded: Tensor | None, weight: Tensor, net: tuple[Tensor, ...], norm: nn.BatchNorm2d, training: bool,
    conv: ConvArguments,
) -> Tensor:  # fmt: skip
    """The three operators; what a graph does to running statistics it must see."""
    w1, b1, gamma, beta, w2, b2 = net
    momentum = norm.momentum
    if momentum is None:
        momentum = 1 / norm.num_batches_tracked.item() if norm.num_batches_tracked is not None else 0.0
    mean, var = norm.running_mean, norm.running_var
    r = fused_predictor.fused_pool(x, w1, b1, mean, var, gamma, beta, w2, b2, training, momentum, norm.eps)
    operator = fused_operator.fused_shift_operator(r, weight.shape[-1])
    return fused_conv.fused_conv2d(x if padded is None else padded, weight, operator, *conv[:3], conv.groups)


class _Call(NamedTuple):
    """What a call is told besides tensors."""

    conv: ConvArguments
    training: bool
    eps: float
    momentum: float | None
    keep: bool  # what backward needs


class _FusedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, padded, U, w1, b1, gamma, beta, w2, b2, mean, var, batches, call: _Call):  # type: ignore
        inputs = (x, padded, U, w1, b1, gamma, beta, w2, b2)
        last = fused_conv.is_channels_last(x if padded is None else padded)
        images = x if padded is None else padded
        U, *net = _contiguous(inputs[2:])
        running = () if mean is None else (mean, var, batches)
        dense = is_dense(images, U, math.prod(fused_conv.output_size(images, U, *call.conv[:3])))

        def launches(x: Tensor, images: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
            return _forward(x, images, last, dense, U, Predictor(*rest[:6]), rest[6:], call)

        key = ("forward", call, last, dense, *_images(x, images), *_parameters(U, *net, *running))
        y, h, state, *kernels = repeated(key, launches, x, images, U, *net, *running)
        if dense:
            convolve_each(images, kernels[0], y, *call.conv[:3], call.conv.groups)
        if call.keep:
            statistics = (None, None) if call.training else (mean, var)  # in training they change before backward
            ctx.save_for_backward(*inputs, h, state, *statistics)  # not what was turned: memory is dearer than that
            ctx.call, ctx.last = call, last
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, h, state, mean, var = ctx.saved_tensors
        call, last, padded = ctx.call, ctx.last, inputs[1] is not None
        of_x, of_padded, of_weight = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a graph of the gradients is wanted
            return *_plain_gradients(dy, inputs, mean, var, call, ctx.needs_input_grad), None, None, None, None
        x, images = inputs[0], inputs[1] if padded else inputs[0]
        U, *net = _contiguous(inputs[2:])
        dy = dy if dy.dtype == x.dtype else dy.to(x.dtype)
        needs = _Needs(of_x, of_padded if padded else of_x, of_weight)

        def launches(dy: Tensor, x: Tensor, images: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
            h, state = rest[6:]
            return _backward(dy, x, images, last, U, Predictor(*rest[:6]), h, state, call, needs)

        key = ("backward", call, last, needs, dy.stride(), *_images(x, images), *_parameters(U, *net))
        found = iter(repeated(key, launches, dy, x, images, U, *net, h, state))
        dimages = next(found) if needs.images else None
        dx = next(found) if padded and of_x else None
        dU = next(found) if of_weight else None
        return *((dx, dimages) if padded else (dimages, None)), dU, *found, None, None, None, None


def _contiguous(parameters: Sequence[Tensor]) -> Iterator[Tensor]:
    return (t if t.is_contiguous() else t.contiguous() for t in parameters)


class _Needs(NamedTuple):
    """Which gradients are wanted besides the predictor's."""

    x: bool
    images: bool
    weight: bool


def _images(x: Tensor, images: Tensor) -> tuple[Any, ...]:
    """What a record depends on of the images."""
    kind = (x.shape, x.stride(), x.dtype, precision(x.dtype))
    return kind if images is x else (*kind, images.shape, images.stride())


def _parameters(U: Tensor, w1: Tensor, *others: Tensor) -> tuple[Any, ...]:
    """What a record depends on of the parameters."""
    return U.shape, U.dtype, w1.shape, w1.dtype, *[t.dtype for t in others]


def _forward(
    x: Tensor, images: Tensor, last: bool, dense: bool, U: Tensor, net: Predictor, running: tuple[Tensor, ...],
    call: _Call,
) -> list[Tensor]:  # fmt: skip
    """``y``, and for backward ``h`` and the state, by launches alone; dense, ``y`` is empty and kernels come fourth."""
    conv, size, count, same = call.conv, U.shape[-1], len(x), images is x
    images = images if dense else channels_last(images)
    x = images if same else channels_last(x)
    h = x.new_empty(shape_h(x, len(net.w1), call.keep))
    shapes = _state_shapes(x, U, net, call.training)
    state = x.new_empty(_state_size(shapes), dtype=torch.float32)
    operator, r, stats, soft = _split(state, shapes)
    statistics = Running(running[0], running[1], running[2], call.momentum) if running else None
    write_pool(x, net, statistics, call.training, call.eps, call.keep, h, stats, soft, r)
    fused_operator.write_operator(r, operator, size)
    y = fused_conv.empty_images(x, (count, len(U), *fused_conv.output_size(images, U, *conv[:3])), last)
    if dense:
        return [y, h, state, fused_conv.mixed(images, U, operator, conv.groups)]
    fused_conv.convolve(images, U, operator, y, *conv[:3], conv.groups)
    return [y, h, state]


def _backward(
    dy: Tensor, x: Tensor, images: Tensor, last: bool, U: Tensor, net: Predictor, h: Tensor, state: Tensor,
    call: _Call, needs: _Needs,
) -> list[Tensor]:  # fmt: skip
    """Gradients, those to images, ``x`` and ``U`` where needed, by launches alone."""
    conv, same = call.conv, images is x
    x, dy = channels_last(x), channels_last(dy)
    images = x if same else channels_last(images)
    operator, r, stats, soft = _split(state, _state_shapes(x, U, net, call.training))
    dimages = fused_conv.empty_images(x, images.shape, last) if needs.images else None
    dU = fused_conv.empty_weight_grad(images, U) if needs.weight else None
    dr = torch.empty_like(r)
    for part, dm in fused_conv.gradients(dy, images, U, operator, dimages, dU, *conv[:3], conv.groups, True):
        fused_operator.write_gradient(dm, r[part], dr[part], U.shape[-1])
    grads = empty_grads(net)
    dx = dimages if same else torch.empty_like(x) if needs.x else None
    write_gradients(dr, x, h, stats, soft, net, call.training, grads, dx, add=same)
    found = [dimages, None if same else dx, None if dU is None else dU.to(U.dtype)]
    return [*(grad for grad in found if grad is not None), *grads]


def _state_shapes(x: Tensor, U: Tensor, net: Predictor, training: bool) -> list[tuple[int, ...]]:
    """Shift operators, ``r``, statistics, and those of the softmax: what forward leaves to backward."""
    images, size, hidden = len(x), U.shape[-1], len(net.w1)
    return [(images, size**2, size**3), (images, 4), (4 if training else 2, hidden), (3, images, 4)]


def _aligned(numbers: int) -> int:
    return -(-numbers // 4) * 4  # 16 bytes, what kernels load at once


def _state_size(shapes: list[tuple[int, ...]]) -> int:
    return sum(_aligned(math.prod(shape)) for shape in shapes)


def _split(state: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """The parts of a state: one tensor, since each of its own takes as long to make as a kernel to launch."""
    parts, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        parts.append(state[start : start + size].view(shape))
        start += _aligned(size)
    return parts


def _plain_gradients(
    dy: Tensor, inputs: list[Tensor], mean: Tensor | None, var: Tensor | None, call: _Call, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """Differentiable gradients by torch's own operators."""
    separate = apart(*inputs)
    x, padded, U, w1, b1, gamma, beta, w2, b2 = separate
    h = F.conv2d(x, w1.to(x.dtype), b1.to(x.dtype))
    h = F.batch_norm(h, mean, var, gamma, beta, call.training, 0.0, call.eps)
    r = softmax_pool(F.conv2d(F.relu(h), w2.to(h.dtype), b2.to(h.dtype)))
    operator = shift_operator(rotation_to_shift(r.float()), U.shape[-1])
    y = grouped_conv(x if padded is None else padded, U.to(x.dtype), operator.to(x.dtype), call.conv)
    return graph_of_gradients(y, separate, needed[: len(inputs)], dy)
