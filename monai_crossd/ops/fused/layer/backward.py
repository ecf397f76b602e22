"""Gradients of a whole layer, by the way its images were convolved; their launches are recorded."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor

from ..conv import passes as fused_conv
from ..conv.dense import gradients_of_each
from ..images.layout import empty_images, is_channels_last
from ..images.turn import channels_last
from ..launches.replay import repeated
from ..predictor.launch import Predictor
from .launch import (
    Call,
    Needs,
    launch_backward,
    launch_predictor_backward,
    launch_shift_gradient,
    operator_of,
    pooled_of,
)

__all__ = ["gradients_by_images", "gradients_by_launches"]


def gradients_by_launches(
    way: str, key: Hashable, dy: Tensor, x: Tensor, images: Tensor, U: Tensor, net: list[Tensor], state: Tensor,
    call: Call, needs: Needs,
) -> list[Tensor | None]:  # fmt: skip
    """Gradients to images, ``x`` if that is another tensor, ``U`` and the predictor; those not needed are ``None``."""

    def launches(dy: Tensor, x: Tensor, images: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        return launch_backward(way, dy, x, images, U, Predictor(*rest[:6]), rest[6], call, needs)

    found = iter(repeated(("backward", dy.stride(), key), launches, dy, x, images, U, *net, state))
    dimages = next(found) if needs.images else None
    dx = next(found) if images is not x and needs.x else None
    return [dimages, dx, next(found) if needs.weight else None, *found]


def gradients_by_images(
    key: Hashable, dy: Tensor, x: Tensor, images: Tensor, U: Tensor, net: list[Tensor], state: Tensor, call: Call,
    needs: Needs,
) -> list[Tensor | None]:  # fmt: skip
    """The same for images that were convolved one by one."""
    same, conv, dimages = images is x, call.conv, _empty_gradient(images, needs)

    def kernels(transposed: bool) -> Tensor:
        def launches(images: Tensor, U: Tensor, state: Tensor) -> list[Tensor]:
            last = is_channels_last(images)
            return [fused_conv.mixed(images, U, operator_of(state, images, U), conv.groups, last, transposed)]

        return repeated(("kernels", transposed, key), launches, images, U, state)[0]

    dk = gradients_of_each(dy, images, kernels, dimages, U.shape[2], *conv[:3], conv.groups)

    def launches(dk: Tensor, x: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        dU, sums = fused_conv.launch_unmixed(dk, U, operator_of(rest[6], x, U), needs.weight)
        dimages = rest[7] if same and needs.images else None
        r = pooled_of(rest[6], x, U, Predictor(*rest[:6]), call)
        dr = launch_shift_gradient([(slice(0, len(x)), sums)], r, U)
        return dU + _launch_end(dr, x, U, Predictor(*rest[:6]), rest[6], call, needs, same, dimages)

    inputs = (dk, x, U, *net, state, *((dimages,) if same and dimages is not None else ()))
    return _ordered(repeated(("predictor backward", key), launches, *inputs), dimages, same, needs)


def _empty_gradient(images: Tensor, needs: Needs) -> Tensor | None:
    """Where the gradient to images goes, if it is needed."""
    last = is_channels_last(images)
    return empty_images(images, images.shape, last) if needs.images else None


def _launch_end(
    dr: Tensor, x: Tensor, U: Tensor, net: Predictor, state: Tensor, call: Call, needs: Needs, same: bool,
    dimages: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """The predictor's gradients; before them that to ``x``, or where this is ``same`` as images, added to theirs."""
    x = channels_last(x)
    dx = dimages if same else torch.empty_like(x) if needs.x else None
    grads = launch_predictor_backward(dr, x, U, net, state, call, dx, add=same)
    return [*([] if same or dx is None else [dx]), *grads]


def _ordered(found: Iterable[Tensor], dimages: Tensor | None, same: bool, needs: Needs) -> list[Tensor | None]:
    """What was launched, in the order in which it is returned."""
    found = iter(found)
    dU = next(found) if needs.weight else None
    dx = next(found) if not same and needs.x else None
    return [dimages, dx, dU, *found]
