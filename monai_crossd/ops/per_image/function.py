"""The autograd function that all such calls go through: the batch in parts, gradients, and higher derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from . import columns, each, grouped, matrices
from .arguments import ConvArguments, output_size
from .grouped import grouped_conv

__all__ = [
    "FORMS",
    "apart",
    "check_images",
    "conv_per_image",
    "convolved",
    "gradients",
    "graph_of_gradients",
    "is_batched",
]

#: a part of the batch forward and backward, by each form
FORMS = {"grouped": grouped, "each": each, "matrices": matrices, "columns": columns}
#: bytes of a part's temporary tensors: what caches of a CPU hold together, and what a GPU's memory can spare
PART = {"cpu": 32 << 20, "cuda": 256 << 20}


def conv_per_image(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, form: str) -> Tensor:
    """Convolve every image with the kernel that its operator makes of the knowledge base.

    Args:
        x: images ``(B, C_in, H, W)``.
        weight: ``U``, ``(C_out, C_in/groups, K, K, K)``; transposed: ``(C_in, C_out/groups, K, K, K)``.
        operator: ``M``, ``(B, K*K, K*K*K)``; all three of one dtype.
        conv: arguments.
        form: of :data:`FORMS`; transposed it is ``"grouped"``, and ``"matrices"`` and ``"columns"`` take one group.

    Returns:
        ``(B, C_out, H_out, W_out)``.

    Raises:
        ValueError: for images smaller than the kernel.
    """
    return _PerImageConv.apply(x, weight.contiguous(), operator, conv, form)


class _PerImageConv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, form: str) -> Tensor:
        y = convolved(x, weight, operator, conv, form)
        return torch.ops.aten._unsafe_view(y, y.shape)  # no view to autograd, so that it may be changed in place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, operator, ctx.conv, ctx.form = inputs
        ctx.save_for_backward(x, weight, operator)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, operator = ctx.saved_tensors
        if torch.is_grad_enabled() or is_batched(dy):  # a graph of the gradients is wanted, or what can be batched
            needed = ctx.needs_input_grad[:3]
            with torch.enable_grad():
                x, weight, operator = apart(x, weight, operator)
                y = grouped_conv(x, weight, operator, ctx.conv)
                return *graph_of_gradients(y, (x, weight, operator), needed, dy), None, None
        return *gradients(dy, x, weight, operator, ctx.conv, ctx.form, ctx.needs_input_grad[0]), None, None


def convolved(x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, form: str) -> Tensor:
    """The convolution, in parts; arguments as of :func:`conv_per_image`, and a contiguous ``weight``."""
    check_images(x, weight, conv)
    forward = FORMS[form].forward
    return _joined([forward(x[part], weight, operator[part], conv) for part in _parts(x, weight, conv, form)])


def check_images(x: Tensor, weight: Tensor, conv: ConvArguments) -> None:
    """Refuse images that are smaller than the kernel."""
    if not conv.transposed and min(output_size(x, weight.shape[-1], *conv[:3])) < 1:
        size, given = weight.shape[-1], tuple(x.shape)
        raise ValueError(f"`x` must be larger than the kernel after padding, got {given} and kernel size {size}.")


def gradients(
    dy: Tensor, x: Tensor, weight: Tensor, operator: Tensor, conv: ConvArguments, form: str, needs_x: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of :func:`convolved` to images, if they are needed, to the knowledge base and to the operators."""
    backward = FORMS[form].backward
    dx, doperator, dweight = [], [], None
    for part in _parts(x, weight, conv, form):
        of_x, of_weight, of_operator = backward(dy[part], x[part], weight, operator[part], conv, needs_x)
        of_weight = of_weight.view(weight.shape)
        wide = of_weight.float() if of_weight.dtype.itemsize < 4 else of_weight  # so that 16-bit parts add up
        dweight = wide if dweight is None else dweight + wide
        dx.append(of_x)
        doperator.append(of_operator)
    assert dweight is not None
    return _joined(dx) if needs_x else None, dweight.to(weight.dtype), _joined(doperator)


def is_batched(dy: Tensor) -> bool:
    """Whether these are gradients of many outputs at once, as of ``is_grads_batched``: ``out=`` cannot take them."""
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(dy) or functorch.is_functorch_wrapped_tensor(dy)


def is_transformed() -> bool:
    """Whether forward derivatives or ``vmap`` are asked for."""
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def apart(*inputs: Any) -> list[Any]:
    """The same tensors, of which none comes from another: an operator is made of the images that it goes with."""
    return [None if t is None else t.view_as(t) for t in inputs]


def graph_of_gradients(
    y: Tensor, inputs: Sequence[Tensor | None], needed: Sequence[bool], dy: Tensor
) -> list[Tensor | None]:
    """Differentiable gradients of ``y`` to those of its :func:`apart` inputs that are needed, ``None`` for others."""
    wanted = [t for t, need in zip(inputs, needed, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return [next(found) if need else None for need in needed]


def _joined(parts: list[Any]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _parts(x: Tensor, weight: Tensor, conv: ConvArguments, form: str) -> Iterator[slice]:
    """Cut the batch so that a part's temporary tensors stay below the budget."""
    budget = PART.get(x.device.type, PART["cuda"])
    if form in ("columns", "matrices"):
        h, w = output_size(x, weight.shape[-1], *conv[:3])
        taps = weight.shape[-1] ** (3 if form == "columns" else 2)
        numbers = x.shape[1] * taps * h * w
        budget = max(budget, weight.numel() * weight.element_size())  # a part's gradient of U is as large as U
    else:
        numbers = weight.numel() // weight.shape[-1]
    size = max(1, budget // (numbers * x.element_size()))
    for start in range(0, len(x), size):
        yield slice(start, start + size)
