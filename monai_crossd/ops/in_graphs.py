"""What the operators have in common that stand for a layer, or its convolution, in graphs of torch.compile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["refuse_second_derivative", "where_needed"]


def where_needed(found: Sequence[Tensor | None], needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Gradients to the first arguments of an operator, ``None`` where they are not needed and for all others."""
    wanted = (grad if need else None for grad, need in zip(found, needed, strict=False))
    return *wanted, *(None,) * (len(needed) - len(found))


def refuse_second_derivative(ctx: Any, *_: Any) -> None:
    """The backward pass of a backward pass."""
    raise RuntimeError("A layer in a graph has no second derivative; call the layer without torch.compile for one.")
