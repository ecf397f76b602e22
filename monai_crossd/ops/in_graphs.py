"""What the operators have in common that stand for a layer, or its convolution, in graphs of torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["define", "library", "refuse_second_derivative", "where_needed"]

library = torch.library.Library("monai_crossd", "FRAGMENT")


def define(
    name: str, schema: str, forward: Callable[..., Any], fake: Callable[..., Any], derivative: Callable[..., Any],
    save: Callable[..., None] | None = None,
) -> None:  # fmt: skip
    """Register ``monai_crossd::name``, on all devices.

    ``torch.library.custom_op`` does the same and checks every result besides, which takes as long as to launch three
    kernels; tests check them here.

    Args:
        name: of the operator.
        schema: arguments and results, as torch writes them; none is written into.
        forward: what it does.
        fake: the same for tensors without values.
        derivative: the backward pass, as of an autograd function.
        save: what it needs, as ``setup_context`` of one.
    """
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, forward, "CompositeExplicitAutograd")
    qualified = f"monai_crossd::{name}"
    torch.library.register_fake(qualified, fake, lib=library)
    torch.library.register_autograd(qualified, derivative, setup_context=save, lib=library)


def where_needed(found: Sequence[Tensor | None], needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Gradients to the first arguments of an operator, ``None`` where they are not needed and for all others."""
    wanted = (grad if need else None for grad, need in zip(found, needed, strict=False))
    return *wanted, *(None,) * (len(needed) - len(found))


def refuse_second_derivative(ctx: Any, *_: Any) -> None:
    """The backward pass of a backward pass."""
    raise RuntimeError("A layer in a graph has no second derivative; call the layer without torch.compile for one.")
