"""What keeps a module in 2D, told without running it."""

from __future__ import annotations

import functools
import inspect
import re

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["obstacle"]

# Names that a forward reads or calls only if it is written for one dimension.
_TIED_NAME = re.compile(r"spatial_dims|dimensions|pixel_?(un)?shuffle|(un)?fold|grid_sample|affine_grid|\w+_?[123]d")
_TIED_CLASS = re.compile(r"\w+[123]d|Pixel(Uns|S)huffle|(Unf|F)old|Upsample|UpsamplingNearest2d|UpsamplingBilinear2d")


def obstacle(module: nn.Module, convertible: set[type[nn.Module]]) -> str | None:
    """Say why a module cannot become dimension-free, or None.

    Args:
        module: one module, its children are asked on their own.
        convertible: the classes that rules convert.

    Returns:
        The reason and remedy in a few words.
    """
    cls = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript; convert the network before scripting it"
    if cls in convertible:
        return "its hooks would be lost; remove them first" if _has_hooks(module) else None
    if parametrize.is_parametrized(module) and any(issubclass(cls, known) for known in convertible):
        return "its parametrization would be lost; remove it first"
    own = cls.__module__.startswith("torch.nn.")
    if own:
        return f"no form of {cls.__name__} for images and volumes" if _TIED_CLASS.fullmatch(cls.__name__) else None
    bases = [known.__name__ for known in convertible if isinstance(module, known)]
    if bases:
        return f"a subclass of {bases[0]} with behavior of its own; use {bases[0]} itself"
    return _tied_forward(module) or _tied_tensors(module)


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind, None) for kind in kinds)


def _tied_forward(module: nn.Module) -> str | None:
    """A forward that reads the dimension or calls a function of one dimension."""
    forward = inspect.unwrap(type(module).forward)
    code = getattr(forward, "__code__", None)
    names = [name for name in code.co_names if _TIED_NAME.fullmatch(name)] if code is not None else []
    if names:
        return f"its forward is written for one dimension (it uses `{names[0]}`)"
    for name, value in vars(module).items():
        if isinstance(value, functools.partial) and "spatial_dims" in value.keywords:
            return f"`{name}` is a function for one dimension; for MONAI's ResNet use shortcut_type='B'"
    return None


def _tied_tensors(module: nn.Module) -> str | None:
    """Parameters or buffers of its own whose shape may hold a dimension, as position embeddings do."""
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for name, tensor in tensors:
        if tensor.dim() >= 2:
            return f"`{name}` of shape {tuple(tensor.shape)} may be tied to the image plane"
    return None
