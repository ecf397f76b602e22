"""A whole layer on images by Triton kernels: predictor, shift operator and convolution.

In graphs it is the operator of ``operator``. In eager mode, where a small layer costs what Python takes to launch it,
it is an autograd function, which takes less; for higher derivatives it falls back on torch's own operators.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...per_image import ConvArguments, apart, graph_of_gradients, grouped_conv, is_batched, is_transformed
from ...shift import rotation_to_shift, shift_operator, softmax_pool
from ..images.halves import is_halved
from . import operator  # noqa: F401, registers it
from .autocast import cast_images
from .launch import Call, statistics_of
from .passes import convolved, gradients

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
        convolved, in graphs channels_last.

    Raises:
        RuntimeError: where the kernels cannot run.
        ValueError: for shapes or dtypes that do not fit, or if one value per channel is to be normalized by itself.
    """
    source = None
    first, norm, _, last = cast("tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module, nn.Conv2d]", predictor)
    if torch.is_autocast_enabled(x.device.type):
        x, padded, source = cast_images(x, padded, torch.get_autocast_dtype(x.device.type))
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
    call = Call(conv, training, norm.eps, norm.momentum, torch.is_grad_enabled(), is_halved(x.dtype), False)
    if is_transformed() or any(map(torch._C._functorch.is_functorch_wrapped_tensor, (x, weight, *net))):
        return _FusedLayer.apply(x, padded, weight, *net, running, call, source)  # refuses those that are active
    if call.keep:
        return _apply(x, padded, weight, *net, running, call, source)
    return convolved(x, padded, weight, net, running, call, source)[0]


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
    """The operator; what a graph does to running statistics it must see."""
    mean, var, momentum = norm.running_mean, norm.running_var, norm.momentum
    statistics = (None, None) if training else (mean, var)
    moves = training and mean is not None and var is not None
    keep = moves or (torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, *net)))
    given = *conv[:3], conv.groups, training, norm.eps, keep
    y, state = torch.ops.monai_crossd.fused_layer(x, padded, weight, *net, *statistics, *given)
    if moves:
        if momentum is None:
            momentum = 1 / norm.num_batches_tracked.item() if norm.num_batches_tracked is not None else 0.0
        with torch.no_grad():
            found = statistics_of(state, len(x), net[0].shape[0], weight.shape[-1])
            for running, of_batch in zip(cast("tuple[Tensor, ...]", (mean, var)), found, strict=True):
                running.lerp_(of_batch.to(running.dtype), momentum)
    return y


class _FusedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, padded, U, w1, b1, gamma, beta, w2, b2, running, call: Call, source):  # type: ignore[override]
        net = (w1, b1, gamma, beta, w2, b2)
        y, state, ctx.way = convolved(x, padded, U, net, running, call, source)
        if call.keep:
            statistics = (None, None) if call.training else running[:2]  # in training they change before backward
            ctx.save_for_backward(x, padded, U, *net, state, *statistics)  # not what was turned: memory is dearer
            ctx.call = call
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        *inputs, state, mean, var = ctx.saved_tensors
        call = ctx.call
        if torch.is_grad_enabled() or is_batched(dy):  # a graph of the gradients is wanted, or what can be batched
            with torch.enable_grad():
                return *_plain_gradients(dy, inputs, mean, var, call, ctx.needs_input_grad), None, None, None
        x, padded, U, *net = inputs
        return *gradients(ctx.way, dy, x, padded, U, net, state, call, ctx.needs_input_grad[:3]), None, None, None


# without a look for tensors that outlived a transform of torch.func, which takes a seventh of a forward pass
_apply = super(torch.autograd.Function, _FusedLayer).apply  # type: ignore[misc]


def _plain_gradients(
    dy: Tensor, inputs: list[Tensor], mean: Tensor | None, var: Tensor | None, call: Call, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """Differentiable gradients by torch's own operators."""
    separate = apart(*inputs)
    x, padded, U, w1, b1, gamma, beta, w2, b2 = separate
    h = F.conv2d(x, w1.to(x.dtype), b1.to(x.dtype))
    h = F.batch_norm(h, mean, var, gamma, beta, call.training, 0.0, call.eps)
    r = softmax_pool(F.conv2d(F.relu(h), w2.to(h.dtype), b2.to(h.dtype)))
    M = shift_operator(rotation_to_shift(r.float()), U.shape[-1])
    y = grouped_conv(x if padded is None else padded, U.to(x.dtype), M.to(x.dtype), call.conv)
    return graph_of_gradients(y, separate, needed[: len(inputs)], dy)
