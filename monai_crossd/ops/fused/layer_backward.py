"""Gradients of a whole layer, by the way its images were convolved; their launches are recorded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import torch
from torch import Tensor

from . import conv as fused_conv
from .columns import gradients_of_products, takes_halves
from .columns_launch import geometry, launch_gradients, launch_weight_gradient
from .dense import gradients_of_each
from .halves import measured
from .layer_launch import Call, Needs, launch_backward, launch_predictor_backward, operator_of, ranges_of
from .predictor_launch import Predictor
from .replay import repeated
from .turn import channels_last

__all__ = ["GRADIENTS"]


def _by_kernels(
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


def _by_columns(
    key: Hashable, dy: Tensor, x: Tensor, images: Tensor, U: Tensor, net: list[Tensor], state: Tensor, call: Call,
    needs: Needs,
) -> list[Tensor | None]:  # fmt: skip
    """The same for images that were convolved by columns."""
    same, at = images is x, geometry(*call.conv[:3])
    dimages, M, ranges = _empty_gradient(images, needs), operator_of(state, images, U), None
    if takes_halves(images.dtype):
        ranges = ranges_of(state, x, U, Predictor(*net), call) or measured(images, U, M)
    of_weight, parts, part, dz, factors, times = gradients_of_products(
        dy, images, U, M, ranges, dimages, needs.weight, at
    )
    slices, scaled = [*(one for one, _ in parts), part], times is not None

    def launches(dz: Tensor, x: Tensor, images: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        state, sums, others = rest[6], rest[7 : 6 + len(slices)], list(rest[6 + len(slices) :])
        *factors, times = others[:3] if scaled else (None, None, None)
        dU = [launch_weight_gradient(others.pop(), U, times)] if needs.weight else []
        dimages = others.pop() if needs.images else None
        into, M = None if dimages is None else dimages[part], operator_of(state, images, U)
        sums = (*sums, launch_gradients(dz, images[part], M[part], into, U, at, factors))
        net = Predictor(*rest[:6])
        return dU + _launch_end(zip(slices, sums, strict=True), x, U, net, state, call, needs, same, dimages)

    given = [one for one in (*factors, times, dimages, of_weight) if one is not None]
    inputs = (dz, x, images, U, *net, state, *(sums for _, sums in parts), *given)
    return _ordered(repeated(("predictor backward", scaled, key), launches, *inputs), dimages, same, needs)


def _by_images(
    key: Hashable, dy: Tensor, x: Tensor, images: Tensor, U: Tensor, net: list[Tensor], state: Tensor, call: Call,
    needs: Needs,
) -> list[Tensor | None]:  # fmt: skip
    """The same for images that were convolved one by one."""
    same, conv, dimages = images is x, call.conv, _empty_gradient(images, needs)

    def kernels(images: Tensor, U: Tensor, state: Tensor) -> list[Tensor]:
        return [fused_conv.mixed(images, U, operator_of(state, images, U), conv.groups)]

    (k,) = repeated(("kernels", key), kernels, images, U, state)
    dk = gradients_of_each(dy, images, k, dimages, *conv[:3], conv.groups)
    del k

    def launches(dk: Tensor, x: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        dU, sums = fused_conv.launch_unmixed(dk, U, operator_of(rest[6], x, U), needs.weight)
        dimages = rest[7] if same and needs.images else None
        parts = [(slice(0, len(x)), sums)]
        return dU + _launch_end(parts, x, U, Predictor(*rest[:6]), rest[6], call, needs, same, dimages)

    inputs = (dk, x, U, *net, state, *((dimages,) if same and dimages is not None else ()))
    return _ordered(repeated(("predictor backward", key), launches, *inputs), dimages, same, needs)


def _empty_gradient(images: Tensor, needs: Needs) -> Tensor | None:
    """Where the gradient to images goes, if it is needed."""
    last = fused_conv.is_channels_last(images)
    return fused_conv.empty_images(images, images.shape, last) if needs.images else None


def _launch_end(
    parts: Iterable[tuple[slice, Tensor]], x: Tensor, U: Tensor, net: Predictor, state: Tensor, call: Call,
    needs: Needs, same: bool, dimages: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """The predictor's gradients; before them that to ``x``, or where this is ``same`` as images, added to theirs."""
    x = channels_last(x)
    dx = dimages if same else torch.empty_like(x) if needs.x else None
    grads = launch_predictor_backward(parts, x, U, net, state, call, dx, add=same)
    return [*([] if same or dx is None else [dx]), *grads]


def _ordered(found: Iterable[Tensor], dimages: Tensor | None, same: bool, needs: Needs) -> list[Tensor | None]:
    """What was launched, in the order in which it is returned."""
    found = iter(found)
    dU = next(found) if needs.weight else None
    dx = next(found) if not same and needs.x else None
    return [dimages, dx, dU, *found]


GRADIENTS: dict[str, Callable[..., list[Tensor | None]]] = {
    "kernels": _by_kernels, "columns": _by_columns, "dense": _by_images,
}  # fmt: skip
