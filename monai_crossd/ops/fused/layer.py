"""A whole layer on images by Triton kernels: predictor, shift operator and convolution.

In graphs these are three operators, ``fused_pool``, ``fused_shift_operator`` and ``fused_conv2d``. In eager mode, where
a small layer costs what Python takes to launch it, it is one autograd function whose launches ``replay`` records; for
higher derivatives it falls back on torch's own operators.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..per_image import ConvArguments, apart, graph_of_gradients, grouped_conv, is_batched
from ..shift import rotation_to_shift, shift_operator, softmax_pool
from . import conv as fused_conv
from . import operator as fused_operator
from . import predictor as fused_predictor
from .columns import convolve_columns, geometry, gradients_of_products, launch_gradients, launch_weight_gradient
from .dense import convolve_each, gradients_of_each
from .layer_launch import Call, Needs, launch_backward, launch_forward, launch_predictor_backward, operator_of
from .predictor_launch import Predictor
from .replay import remembered, repeated
from .sizes import precision
from .turn import channels_last

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
    call = Call(conv, training, norm.eps, norm.momentum, torch.is_grad_enabled())
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
    """The three operators; what a graph does to running statistics it must see."""
    w1, b1, gamma, beta, w2, b2 = net
    momentum = norm.momentum
    if momentum is None:
        momentum = 1 / norm.num_batches_tracked.item() if norm.num_batches_tracked is not None else 0.0
    mean, var = norm.running_mean, norm.running_var
    r = fused_predictor.fused_pool(x, w1, b1, mean, var, gamma, beta, w2, b2, training, momentum, norm.eps)
    operator = fused_operator.fused_shift_operator(r, weight.shape[-1])
    return fused_conv.fused_conv2d(x if padded is None else padded, weight, operator, *conv[:3], conv.groups)


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
        key = (call, needs, _images(x, images), _parameters(U, net))
        by = {"columns": _gradients_by_columns, "dense": _gradients_by_images}.get(ctx.way, _gradients)
        dimages, dx, *others = by(key, dy, x, images, U, net, state, call, needs)
        return *((dimages, None) if padded is None else (dx, dimages)), *others, None, None


class _Way(NamedTuple):
    """How images are convolved, the size of the output, whether it is channels_last; and what tells all this apart."""

    name: str
    size: tuple[int, int]
    last: bool
    key: object


def _convolved(
    x: Tensor, padded: Tensor | None, U: Tensor, net: Sequence[Tensor], running: tuple[Tensor, ...], call: Call
) -> tuple[Tensor, Tensor | None, str]:
    """What the layer returns, its state if that is kept, and how images were convolved."""
    images, conv = x if padded is None else padded, call.conv
    U, *net = _contiguous((U, *net))
    key = (call, torch.backends.cudnn.enabled, _images(x, images), _parameters(U, (*net, *running)))
    way, size, last, key = remembered(key, lambda: _way(x, images, U, running, call))
    keeps = call.keep or way == "columns"

    def launches(x: Tensor, images: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        found = launch_forward(x, images, last, way, U, Predictor(*rest[:6]), rest[6:], call)
        return found if keeps else found[1:]

    found = list(repeated(key, launches, x, images, U, *net, *running))
    state = found.pop(0) if keeps else None
    if way == "columns":
        assert state is not None
        y = convolve_columns(images, U, operator_of(state, images, U), size, last, geometry(*conv[:3]), found)
    elif way == "dense":
        y = fused_conv.empty_images(images, (len(images), len(U), *size), last)
        convolve_each(images, found[0], y, *conv[:3], conv.groups)
    else:
        (y,) = found
    return y, state, way


def _gradients(
    key: Hashable, dy: Tensor, x: Tensor, images: Tensor, U: Tensor, net: list[Tensor], state: Tensor, call: Call,
    needs: Needs,
) -> list[Tensor | None]:  # fmt: skip
    """Gradients to images, ``x`` if that is another tensor, ``U`` and the predictor; those not needed are ``None``."""

    def launches(dy: Tensor, x: Tensor, images: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        return launch_backward(dy, x, images, U, Predictor(*rest[:6]), rest[6], call, needs)

    found = iter(repeated(("backward", dy.stride(), key), launches, dy, x, images, U, *net, state))
    dimages = next(found) if needs.images else None
    dx = next(found) if images is not x and needs.x else None
    return [dimages, dx, next(found) if needs.weight else None, *found]


def _gradients_by_columns(
    key: Hashable, dy: Tensor, x: Tensor, images: Tensor, U: Tensor, net: list[Tensor], state: Tensor, call: Call,
    needs: Needs,
) -> list[Tensor | None]:  # fmt: skip
    """The same for images that were convolved by columns."""
    last, same, at = fused_conv.is_channels_last(images), images is x, geometry(*call.conv[:3])
    dimages = fused_conv.empty_images(images, images.shape, last) if needs.images else None
    dweight, parts, part, dz = gradients_of_products(
        dy, images, U, operator_of(state, images, U), dimages, needs.weight, at
    )
    slices = [*(one for one, _ in parts), part]

    def launches(dz: Tensor, x: Tensor, images: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        state, sums, others = rest[6], rest[7 : 6 + len(slices)], list(rest[6 + len(slices) :])
        dU = [launch_weight_gradient(others.pop(), U)] if needs.weight else []
        dimages = others.pop() if needs.images else None
        into, M = None if dimages is None else dimages[part], operator_of(state, images, U)
        sums = (*sums, launch_gradients(dz, images[part], M[part], into, U, at))
        x = channels_last(x)
        dx = dimages if same else torch.empty_like(x) if needs.x else None
        net = Predictor(*rest[:6])
        grads = launch_predictor_backward(zip(slices, sums, strict=True), x, U, net, state, call, dx, add=same)
        return [*dU, *([] if same or dx is None else [dx]), *grads]

    written = [one for one in (dimages, dweight) if one is not None]
    inputs = (dz, x, images, U, *net, state, *(sums for _, sums in parts), *written)
    found = iter(repeated(("predictor backward", key), launches, *inputs))
    dU = next(found) if needs.weight else None
    dx = next(found) if not same and needs.x else None
    return [dimages, dx, dU, *found]


def _gradients_by_images(
    key: Hashable, dy: Tensor, x: Tensor, images: Tensor, U: Tensor, net: list[Tensor], state: Tensor, call: Call,
    needs: Needs,
) -> list[Tensor | None]:  # fmt: skip
    """The same for images that were convolved one by one."""
    same, conv = images is x, call.conv
    dimages = (
        fused_conv.empty_images(images, images.shape, fused_conv.is_channels_last(images)) if needs.images else None
    )

    def kernels(images: Tensor, U: Tensor, state: Tensor) -> list[Tensor]:
        return [fused_conv.mixed(images, U, operator_of(state, images, U), conv.groups)]

    (k,) = repeated(("kernels", key), kernels, images, U, state)
    dk = gradients_of_each(dy, images, k, dimages, *conv[:3], conv.groups)
    del k

    def launches(dk: Tensor, x: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        state, M = rest[6], operator_of(rest[6], x, U)
        dU, sums = fused_conv.launch_unmixed(dk, U, M, needs.weight)
        x = channels_last(x)
        dx = rest[7] if same and needs.images else torch.empty_like(x) if needs.x else None
        net, parts = Predictor(*rest[:6]), [(slice(0, len(x)), sums)]
        grads = launch_predictor_backward(parts, x, U, net, state, call, dx, add=same)
        return [*dU, *([] if same or dx is None else [dx]), *grads]

    inputs = (dk, x, U, *net, state, *((dimages,) if same and dimages is not None else ()))
    found = iter(repeated(("predictor backward", key), launches, *inputs))
    dU = next(found) if needs.weight else None
    dx = next(found) if not same and needs.x else None
    return [dimages, dx, dU, *found]


def _way(x: Tensor, images: Tensor, U: Tensor, running: tuple[Tensor, ...], call: Call) -> _Way:
    """How images are convolved; what is wrong is refused."""
    mean, var = running[:2] or (None, None)
    fused_predictor.check(x, mean, var, call.training)
    fused_conv.check_images(images, U, *call.conv[:3], call.conv.groups)
    size = fused_conv.output_size(images, U, *call.conv[:3])
    way, last = fused_conv.chosen_way(images, U, size, call.conv.groups), fused_conv.is_channels_last(images)
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
