"""The atomic swap: visit all, list everything that stands in the way, then replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from monai_crossd import layers

from .obstacles import obstacle

__all__ = ["Rules", "swap_modules"]

#: The new module for an old one, by the old one's exact class; raises ``ValueError`` with the reason where none is.
Rules = dict[type[nn.Module], Callable[[Any], nn.Module]]

_CROSSD = tuple(getattr(layers, name) for name in layers.__all__)


def swap_modules(net: Any, rules: Rules, name: str, keep_crossd: bool = False) -> Any:
    """Replace modules of ``net`` in place by ``rules``, all or none.

    Args:
        net: the network.
        rules: a function per class.
        name: of the conversion, for the error.
        keep_crossd: whether modules of :mod:`monai_crossd.layers` stay.

    Returns:
        ``net``, or its replacement where the root itself is replaced.

    Raises:
        ValueError: listing the path, class and reason of every module that cannot be converted.
    """
    new: dict[nn.Module, nn.Module] = {}
    problems: dict[str, str] = {}
    inside_kept: set[nn.Module] = set()
    for path, module in net.named_modules():
        if module in inside_kept:
            continue
        if isinstance(module, _CROSSD) and (keep_crossd or type(module) in rules):
            inside_kept.update(module.modules())
            if keep_crossd:
                continue
        try:
            reason = obstacle(module, set(rules))
            if reason is None and type(module) in rules:
                new[module] = _replacement(module, rules)
        except ValueError as error:
            reason = str(error)
        if reason is not None:
            problems[path] = f"{path or '(the network itself)'} ({type(module).__name__}): {reason}"
    if problems:
        raise ValueError(
            f"{name} cannot convert {len(problems)} module(s) of {type(net).__name__}; replace them or convert a part "
            "of the network that does not hold them:\n  " + "\n  ".join(problems.values())
        )
    _tie(new)
    for parent in list(net.modules()):
        for child_name, child in parent._modules.items():
            if child in new:
                parent._modules[child_name] = new[child]
    return new.get(net, net)


def _replacement(module: nn.Module, rules: Rules) -> nn.Module:
    """The new module in the old one's mode."""
    with torch.no_grad():
        new = rules[type(module)](module)
    return new.train(module.training)


def _tie(new: dict[nn.Module, nn.Module]) -> None:
    """Give new modules one parameter where the old ones had one."""
    first: dict[tuple[int, torch.Size], nn.Parameter] = {}
    for old, module in new.items():
        weight, old_weight = getattr(module, "weight", None), getattr(old, "weight", None)
        if isinstance(weight, nn.Parameter) and isinstance(old_weight, nn.Parameter):
            module.weight = first.setdefault((id(old_weight), weight.shape), weight)
