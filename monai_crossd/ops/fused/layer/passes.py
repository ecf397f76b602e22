"""The forward and the backward pass of a whole layer, its launches recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...per_image import output_size
from ..conv import passes as fused_conv
from ..conv.dense import convolve_each
from ..conv.operator import check_images
from ..images.layout import empty_images, is_channels_last
from ..launches.replay import remembered, repeated
from ..predictor.check import check as check_predictor
from ..predictor.launch import Predictor
from ..sizes import precision
from .backward import gradients_by_images, gradients_by_launches
from .launch import Call, Needs, launch_forward

__all__ = ["Way", "convolved", "gradients", "is_last", "way_of"]


class Way(NamedTuple):
    """How images are convolved, the size of the output, and what tells all this apart."""

    name: str
    size: tuple[int, int]
    key: object


def convolved(
    x: Tensor, padded: Tensor | None, U: Tensor, net: Sequence[Tensor], running: tuple[Tensor, ...], call: Call,
    source: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Way]:  # fmt: skip
    """What the layer returns, its state if that is kept, and how images were convolved.

    ``x`` is written where there is a ``source``, as ``autocast`` says.
    """
    images, conv = x if padded is None else padded, call.conv
    U, *net = _contiguous((U, *net))

    def find() -> Way:
        check_predictor(x, running[0] if running else None, running[1] if running else None, call.training)
        return _way(x, images, U, call)

    def launches(x: Tensor, images: Tensor, U: Tensor, *rest: Tensor) -> list[Tensor]:
        end, last = 6 + len(running), is_last(images, call)
        found = launch_forward(x, images, last, way.name, U, Predictor(*rest[:6]), rest[6:end], call, *rest[end:])
        return found if call.keep else found[1:]

    key, sources = _key(x, images, U, (*net, *running), call), () if source is None else (source,)
    way = remembered(key if source is None else (source.dtype, key), find)
    *state, found = repeated(way.key, launches, x, images, U, *net, *running, *sources)
    if way.name == "dense":
        y = empty_images(images, (len(images), len(U), *way.size), is_last(images, call))
        convolve_each(images, found, y, *conv[:3], conv.groups)
    else:
        y = found
    return y, state[0] if state else None, way


def gradients(
    way: Way, dy: Tensor, x: Tensor, padded: Tensor | None, U: Tensor, net: Sequence[Tensor], state: Tensor,
    call: Call, needed: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """Gradients to ``x``, ``padded``, ``U``, those three where they are ``needed``, and to the predictor."""
    U, *net = _contiguous((U, *net))
    images, dy = x if padded is None else padded, dy if dy.dtype == x.dtype else dy.to(x.dtype)
    of_x, of_padded, of_weight = needed
    needs = Needs(of_x, of_x if padded is None else of_padded, of_weight)
    arguments = ((way.key, needs, precision(x.dtype)), dy, x, images, U, net, state, call, needs)
    dense = way.name == "dense"
    dimages, dx, *others = gradients_by_images(*arguments) if dense else gradients_by_launches(way.name, *arguments)
    return [*((dimages, None) if padded is None else (dx, dimages)), *others]


def way_of(x: Tensor, images: Tensor, U: Tensor, net: Sequence[Tensor], call: Call) -> Way:
    """How images were convolved, where only the arguments are known."""
    return remembered(("backward", _key(x, images, U, net, call)), lambda: _way(x, images, U, call))


def _way(x: Tensor, images: Tensor, U: Tensor, call: Call) -> Way:
    """How images are convolved; what is wrong is refused."""
    check_images(images, U, *call.conv[:3], call.conv.groups)
    size = output_size(images, U.shape[2], *call.conv[:3])
    name = fused_conv.chosen_way(images, U, size, call.conv.groups, True)
    return Way(name, size, object())


def is_last(images: Tensor, call: Call) -> bool:
    """Whether the output is channels_last; a graph is kept between processes, so there it hangs on arguments alone."""
    return call.last or is_channels_last(images)


def _key(x: Tensor, images: Tensor, U: Tensor, others: Sequence[Tensor], call: Call) -> tuple[Any, ...]:
    """What the way and a record depend on; ``others`` are the predictor, and running statistics."""
    return call, torch.backends.cudnn.enabled, _images(x, images), _parameters(U, others)


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
