"""A whole layer on images by Triton kernels: predictor, shift operator and convolution.

In graphs these are operators of their own, ``fused_pool``, and then ``fused_shift_operator`` and ``fused_conv2d``, or
``fused_columns2d``. In eager mode, where
a small layer costs what Python takes to launch it, it is one autograd function whose launches ``replay`` records; for
higher derivatives it falls back on torch's own operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...per_image import ConvArguments, apart, graph_of_gradients, grouped_conv, is_batched, output_size
from ...shift import rotation_to_shift, shift_operator, softmax_pool
from ..columns.operator import fused_columns2d
from ..columns.passes import is_small
from ..conv import passes as fused_conv
from ..conv.dense import convolve_each
from ..conv.operator import check_images, fused_conv2d
from ..images.halves import is_halved
from ..images.layout import empty_images, is_channels_last
from ..launches.replay import remembered, repeated
from ..predictor import operator as fused_predictor
from ..predictor.launch import Predictor
from ..shift import operator as fused_operator
from ..sizes import precision
from .backward import gradients_by_images, gradients_by_launches
from .launch import Call, Needs, launch_forward

__all__ = ["fused_layer"]


def fused_layer(
    x: Tensor, padded: Tensor | None, weight: Tensor, predictor: Iterable[nn.Module], conv: ConvArguments
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
    first, norm, _, last = cast("tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module, nn.Conv2d]", predictor)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, padded = x.to(dtype), None if padded is None else padded.to(dtype)
    net = (*_weight_and_bias(first), *_weight_and_bias(norm), *_weight_and_bias(last))
    mean, var, batches = _statistics(norm)
    training = norm.training or mean is None
    if norm.training and batches is not None and (norm.momentum is None or torch.compiler.is_compiling()):
        batches.add_(1)
    if torch.compiler.is_compiling():
        return _in_graph(x, padded, weight, net, norm, training, conv)
    if type(x) is not Tensor:  # MONAI's, which know their file: a layer has no use for that
        x, padded = x.as_subclass(Tensor), None if padded is None else padded.as_subclass(Tensor)
    running = () if mean is None or var is None else cast(tuple[Tensor, ...], (mean, var, batches))
    call = Call(conv, training, norm.eps, norm.momentum, torch.is_grad_enabled(), is_halved(x.dtype))
    if call.keep or _is_transformed():
        return _FusedLayer.apply(x, padded, weight, *net, running, call)
    return _convolved(x, padded, weight, net, running, call)[0]


def _weight_and_bias(module: nn.Module) -> tuple[Any, Any]:
    """Both, from where a module mostly has them: to ask for its attributes takes ten times as long."""
    known = module._parameters
    weight, bias = known.get("weight"), known.get("bias")  # replicas and parametrizations have theirs elsewhere
    return module.weight if weight is None else weight, module.bias if bias is None else bias


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor | None, ...]:
    """Running mean, variance and number of batches, in the same way."""
    known = norm._buffers
    mean, var, batches = known.get("running_mean"), known.get("running_var"), known.get("num_batches_tracked")
    if mean is None or var is None or batches is None:
        return norm.running_mean, norm.running_var, norm.num_batches_tracked
    return mean, var, batches


def _in_graph(
    x: Tensor, padded: Tensor | None, weight: Tensor, net: tuple[Tensor, ...], norm: nn.BatchNorm2d, training: bool,
    conv: ConvArguments,
) -> Tensor:  # fmt: skip
    """The operators; what a graph does to running statistics it must see."""
    w1, b1, gamma, beta, w2, b2 = net
    momentum = norm.momentum
    if momentum is None:
        momentum = 1 / norm.num_batches_tracked.item() if norm.num_batches_tracked is not None else 0.0
    mean, var = norm.running_mean, norm.running_var
    r = fused_predictor.fused_pool(x, w1, b1, mean, var, gamma, beta, w2, b2, training, momentum, norm.eps)
    images = x if padded is None else padded
    size = output_size(images, weight.shape[2], *conv[:3])
    if is_small(weight, size[0] * size[1], conv.groups):  # `chosen_way` asks cuDNN besides, which a graph cannot hold
        return fused_columns2d(images, weight, r, *conv[:3])
    operator = fused_operator.fused_shift_operator(r, weight.shape[-1])
    return fused_conv2d(images, weight, operator, *conv[:3], conv.groups)


def _is_transformed() -> bool:
    """Whether forward derivatives or ``vmap`` are asked for, which an autograd function knows to refuse."""
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


class _FusedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, padded, U, w1, b1, gamma, beta, w2, b2, running, call: Call):  # type: ignore[override]
        net = (w1, b1, gamma, beta, w2, b2)
        y, state, ctx.way = _convolved(x, padded, U, net, running, call)
        if call.keep:
            statistics = (None, None) if call.training else running[:2]  # in training they change before backward
            ctx.save_for_backward(x, padded, U, *net, state, *statistics)  # not what was turned: memory is dearer
            ctx.call = call
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, state, mean, var = ctx.saved_tensors
        call, (x, padded, *parameters) = ctx.call, inputs
        of_x, of_padded, of_weight = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or is_batched(dy):  # a graph of the gradients is wanted, or what can be batched
            with torch.enable_grad():
                return *_plain_gradients(dy, inputs, mean, var, call, ctx.needs_input_grad), None, None
        images = x if padded is None else padded
        U, *net = _contiguous(parameters)
        dy = dy if dy.dtype == x.dtype else dy.to(x.dtype)
        needs = Needs(of_x, of_x if padded is None else of_padded, of_weight)
        way, *_, key = ctx.way
        arguments = ((key, needs, precision(x.dtype)), dy, x, images, U, net, state, call, needs)
        dense = way == "dense"
        dimages, dx, *others = gradients_by_images(*arguments) if dense else gradients_by_launches(way, *arguments)
        return *((dimages, None) if padded is None else (dx, dimages)), *others, None, None


class _Way(NamedTuple):
    """How images are convolved, the size of the output, whether it is channels_last; and what tells all this apart."""

    name: str
    size: tuple[int, int]
    last: bool
    key: object


def _convolved(
    x: Tensor, padded: Tensor | None, U: Tensor, net: Sequence[Tensor], running: tuple[Tensor, ...], call: Call
) -> tuple[Tensor, Tensor | None, _Way]:
    """What the layer returns, its state if that is kept, and how images were convolved."""
    images, conv = x if padded is None else padded, call.conv
    U, *net = _contiguous((U, *net))
    key = (call, torch.backends.cudnn.enabled, _images(x, images), _parameters(U, (*net, *running)))
    way = remembered(key, lambda: _way(x, images, U, running, call))

    def launches(x: Tensor, images: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        found = launch_forward(x, images, way.last, way.name, U, Predictor(*rest[:6]), rest[6:], call)
        return found if call.keep else found[1:]

    *state, found = repeated(way.key, launches, x, images, U, *net, *running)
    if way.name == "dense":
        y = empty_images(images, (len(images), len(U), *way.size), way.last)
        convolve_each(images, found, y, *conv[:3], conv.groups)
    else:
        y = found
    return y, state[0] if state else None, way


def _way(x: Tensor, images: Tensor, U: Tensor, running: tuple[Tensor, ...], call: Call) -> _Way:
    """How images are convolved; what is wrong is refused."""
    mean, var = running[:2] or (None, None)
    fused_predictor.check(x, mean, var, call.training)
    check_images(images, U, *call.conv[:3], call.conv.groups)
    size = output_size(images, U.shape[2], *call.conv[:3])
    way, last = fused_conv.chosen_way(images, U, size, call.conv.groups, True), is_channels_last(images)
    return _Way(way, size, last, object())


def _contiguous(parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    if all(map(Tensor.is_contiguous, parameters)):
        return parameters
    return [t.contiguous() for t in parameters]


def _images(x: Tensor, images: Tensor) -> tuple[Any, ...]:
    """What a record depends on of the images."""
    kind = (x.device, x.shape, x.stride(), x.dtype, precision(x.dtype))
    return kind if images is x else (*kind, images.shape, images.stride())


def _parameters(U: Tensor, others: Sequence[Tensor]) -> tuple[Any, ...]:
    """What a record depends on of the parameters."""
    return U.device, U.shape, U.dtype, others[0].shape, *[t.dtype for t in others]


def _plain_gradients(
    dy: Tensor, inputs: list[Tensor], mean: Tensor | None, var: Tensor | None, call: Call, needed: tuple[bool, ...]
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
