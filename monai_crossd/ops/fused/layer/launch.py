"""Launches of a whole layer, and the state that its forward pass leaves to its backward pass.

These functions allocate tensors and launch kernels and do nothing else, which is what ``replay`` can record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ...per_image import ConvArguments, output_size
from ..columns.launch import geometry
from ..columns.passes import convolve_columns, gradients_of_columns
from ..conv import passes as fused_conv
from ..images.halves import Ranges, is_halved, measure, measured, shapes
from ..images.layout import empty_images, is_channels_last
from ..images.turn import channels_last
from ..predictor.launch import Predictor, Running, empty_grads, shape_h, write_gradients, write_pool
from ..shift import launch as shift

__all__ = [
    "Call",
    "Needs",
    "launch_backward",
    "launch_forward",
    "launch_predictor_backward",
    "launch_shift_gradient",
    "operator_of",
    "pooled_of",
    "ranges_of",
    "state_size",
    "statistics_of",
]


class Call(NamedTuple):
    """What a call is told besides tensors."""

    conv: ConvArguments
    training: bool
    eps: float
    momentum: float | None
    keep: bool  # what backward needs
    halved: bool  # whether forward keeps ranges
    last: bool  # whether the output is channels_last whatever the images are


class Needs(NamedTuple):
    """Which gradients are wanted besides the predictor's."""

    x: bool
    images: bool
    weight: bool


def launch_forward(
    x: Tensor, images: Tensor, last: bool, way: str, U: Tensor, net: Predictor, running: tuple[Tensor, ...],
    call: Call, source: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """What the predictor makes of ``x``, and the convolution of ``images``, or for ``"dense"`` its kernels.

    Args:
        x: ``(B, C_in, H, W)`` of any strides.
        images: what is convolved, ``x`` itself or padded.
        last: whether the output is channels_last.
        way: of ``chosen_way``.
        U: knowledge base, contiguous.
        net: the predictor.
        running: its running statistics, if any.
        call: what the call is told.
        source: what ``x``, channels_last, is to be cast from; ``None`` where it is known.

    Returns:
        the state; then ``y``, or for ``"dense"`` all kernels.
    """
    conv, size, same = call.conv, U.shape[-1], images is x
    x = channels_last(x)
    shape = (len(x), len(U), *output_size(images, U.shape[2], *conv[:3]))
    layout = [*_state_layout(x, U, net, call), *_of_columns(way, shape, x, call)]
    state = x.new_empty(sum(_numbers(*part) for part in layout), dtype=torch.float32)
    _, r, stats, soft, h, *others = _split(state, layout)
    operator, columns = operator_of(state, x, U), way == "columns"
    statistics = Running(running[0], running[1], running[2], call.momentum) if running else None
    write_pool(x, net, statistics, call.training, call.eps, call.keep, h, stats, soft, r, source)
    if not columns:
        shift.write_operator(r, operator, size)
    if way == "dense":
        return [state, fused_conv.mixed(images, U, operator, conv.groups, last)]
    images = x if same else channels_last(images)
    measured_now = Ranges(*others[:2]) if call.halved and images.numel() > 0 else None
    if measured_now is not None:
        measure(images, U, None if columns else operator, measured_now)
    if not is_halved(x.dtype):  # measured for a backward pass that may be allowed to halve
        measured_now = None
    y = empty_images(x, shape, last)
    if columns:
        along = others[-1].permute(0, 3, 1, 2) if call.keep else None
        convolve_columns(images, U, r, measured_now, y, along, geometry(*conv[:3]))
    else:
        fused_conv.convolve(images, U, operator, measured_now, y, *conv[:3], conv.groups)
    return [state, y]


def launch_backward(
    way: str, dy: Tensor, x: Tensor, images: Tensor, U: Tensor, net: Predictor, state: Tensor, call: Call, needs: Needs
) -> list[Tensor]:
    """Gradients to ``images``, to ``x`` where that is another tensor, and to ``U``, if needed; then the predictor's."""
    conv, same, last = call.conv, images is x, is_channels_last(images)
    x, dy = channels_last(x), channels_last(dy)
    images = x if same else channels_last(images)
    operator, columns = operator_of(state, x, U), way == "columns"
    ranges = ranges_of(state, x, U, net, call) or measured(images, U, None if columns else operator)
    dimages = empty_images(x, images.shape, last) if needs.images else None
    dU = fused_conv.empty_weight_grad(way, dy, images, U) if needs.weight else None
    layout = [*_state_layout(x, U, net, call), *_of_columns(way, tuple(dy.shape), x, call)]
    _, r, *_, last_part = _split(state, layout)
    if columns:
        dr, along = torch.empty_like(r), last_part.permute(0, 3, 1, 2)
        gradients_of_columns(dy, images, U, r, ranges, along, dimages, dU, dr, geometry(*conv[:3]))
    else:
        sums = fused_conv.gradients(dy, images, U, operator, ranges, dimages, dU, *conv[:3], conv.groups, True)
        dr = launch_shift_gradient(sums, r, U)
    dx = dimages if same else torch.empty_like(x) if needs.x else None
    grads = launch_predictor_backward(dr, x, U, net, state, call, dx, add=same)
    found = (dimages, None if same else dx, None if dU is None else dU.to(U.dtype))
    return [*(one for one in found if one is not None), *grads]


def launch_shift_gradient(sums: Iterable[tuple[slice, Tensor]], r: Tensor, U: Tensor) -> Tensor:
    """Gradient to ``r`` from parts of the batch and partial sums of the gradient to their operators."""
    dr = torch.empty_like(r)
    for part, dm in sums:
        shift.write_gradient(dm, r[part], dr[part], U.shape[-1])
    return dr


def launch_predictor_backward(
    dr: Tensor, x: Tensor, U: Tensor, net: Predictor, state: Tensor, call: Call, dx: Tensor | None, add: bool
) -> Predictor:
    """Gradients to the predictor's parameters from that to its result, and what it adds to that of ``x``.

    Args:
        dr: gradient to ``r``, what the predictor found.
        x: as in forward, channels_last, and so what is not named here.
        U: see ``x``.
        net: see ``x``.
        state: see ``x``.
        call: see ``x``.
        dx: in the shape of ``x``, written; ``None`` where it is not needed.
        add: whether to add to what ``dx`` holds.
    """
    _, _, stats, soft, h, *_ = _split(state, _state_layout(x, U, net, call))
    grads = empty_grads(net)
    write_gradients(dr, x, h, stats, soft, net, call.training, grads, dx, add)
    return grads


def ranges_of(state: Tensor, x: Tensor, U: Tensor, net: Predictor, call: Call) -> Ranges | None:
    """What forward measured, where halves are multiplied now too."""
    if not (call.halved and is_halved(x.dtype)) or x.numel() == 0:
        return None
    return Ranges(*_split(state, _state_layout(x, U, net, call))[5:])


def operator_of(state: Tensor, x: Tensor, U: Tensor) -> Tensor:
    """The shift operators ``(B, K*K, K*K*K)``, which come first in a state, unless images came from columns."""
    size = U.shape[-1]
    taps, depth = size**2, size**3
    apart = shift.pitch(depth)
    return state.as_strided((x.shape[0], taps, depth), (taps * apart, apart, 1))


def _state_layout(x: Tensor, U: Tensor, net: Predictor, call: Call) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shift operators, ``r``, statistics, those of the softmax, hidden values, and ranges if any: what forward leaves
    to backward.
    """
    images, size, hidden = len(x), U.shape[-1], len(net.w1)
    first = [*_before_statistics(images, size), (4 if call.training else 2, hidden), (3, images, 4)]
    layout = [*((shape, torch.float32) for shape in first), (shape_h(x, hidden, call.keep), x.dtype)]
    return layout + [(shape, torch.float32) for shape in shapes(images)] if call.halved else layout


def _before_statistics(images: int, size: int) -> list[tuple[int, ...]]:
    """Shapes of shift operators and of ``r``, the first parts of a state."""
    return [(images, size**2, shift.pitch(size**3)), (images, 4)]


def pooled_of(state: Tensor, x: Tensor, U: Tensor, net: Predictor, call: Call) -> Tensor:
    """What the predictor found, ``(B, 4)``, which comes second."""
    return _split(state, _state_layout(x, U, net, call))[1]


def state_size(way: str, shape: tuple[int, ...], x: Tensor, U: Tensor, net: Predictor, call: Call) -> int:
    """Numbers of float32 in the state of a layer with output images of a ``shape``."""
    return sum(_numbers(*part) for part in [*_state_layout(x, U, net, call), *_of_columns(way, shape, x, call)])


def statistics_of(state: Tensor, images: int, hidden: int, size: int) -> Tensor:
    """Mean and variance of a batch, ``(2, hidden)``, the last half of the statistics that training left in a state."""
    start = sum(_numbers(shape, torch.float32) for shape in _before_statistics(images, size))
    return state[start : start + 4 * hidden].view(4, hidden)[2:]


def _of_columns(way: str, shape: tuple[int, ...], x: Tensor, call: Call) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """What comes last in the state where images ``shape`` came from columns, if that is kept: their derivative."""
    images, channels, height, width = shape
    return [((images, height, width, channels), x.dtype)] if way == "columns" and call.keep else []


def _numbers(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Numbers of float32 that a part of a state takes: multiples of 16 bytes, what kernels load at once."""
    return -(-math.prod(shape) * dtype.itemsize // 16) * 4


def _split(state: Tensor, layout: list[tuple[tuple[int, ...], torch.dtype]]) -> list[Tensor]:
    """The parts of a state: one tensor, since each of its own takes as long to make as a kernel to launch."""
    parts, start = [], 0
    for shape, dtype in layout:
        end = start + _numbers(shape, dtype)
        parts.append(state[start:end].view(dtype)[: math.prod(shape)].view(shape))
        start = end
    return parts
