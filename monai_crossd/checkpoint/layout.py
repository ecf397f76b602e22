"""The layouts in which the weights of a convolution come, told by their names and shapes.

=============  =======================================  ========================================
layout         kernel                                   predictor
=============  =======================================  ========================================
``published``  ``weights_3d`` ``(C0, C1, K, K, K)``     ``rotation_params.*``, also where K is 1
``2d``         ``weight`` ``(C0, C1, K, K)``            none
``3d``         ``weight`` ``(C0, C1, K, K, K)``         none
``crossd``     ``weight`` ``(C0, C1, K, K, K)``         ``predictor.*``
=============  =======================================  ========================================
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from monai_crossd.layers import CrossDConv, CrossDConvTranspose

__all__ = ["LAYOUTS", "crossd_convolutions", "find_layouts", "join", "to_own_names"]

LAYOUTS = ("published", "2d", "3d", "crossd")

_PUBLISHED = re.compile(r"(?P<conv>(?:.+\.)?)(?:weights_3d|rotation_params\.(?P<rest>.+))")


def crossd_convolutions(net: nn.Module) -> dict[str, CrossDConv | CrossDConvTranspose]:
    """All Cross-D convolutions by name, tied ones under each of their names."""
    modules = net.named_modules(remove_duplicate=False)
    return {name: module for name, module in modules if isinstance(module, (CrossDConv, CrossDConvTranspose))}


def join(module: str, name: str) -> str:
    """``"module.name"``, or ``"name"`` where the module is the network itself."""
    return f"{module}.{name}" if module else name


def to_own_names(keys: Collection[str], net: nn.Module) -> tuple[dict[str, str], tuple[str, ...]]:
    """Translate the published names of Cross-D convolutions; other keys keep their names.

    Args:
        keys: of the checkpoint.
        net: the network, which tells what is a Cross-D convolution.

    Returns:
        The checkpoint's key for every name of ours; and the keys of published predictors without a place here,
        since a 1x1 convolution has the same kernel at every angle.
    """
    convolutions = crossd_convolutions(net)
    origin: dict[str, str] = {}
    dropped = []
    for key in keys:
        match = _PUBLISHED.fullmatch(key)
        convolution = convolutions.get(match["conv"].removesuffix(".")) if match else None
        if match is None or convolution is None:
            origin[key] = key
        elif match["rest"] and convolution.predictor is None:
            dropped.append(key)
        else:
            name = match["conv"] + (f"predictor.{match['rest']}" if match["rest"] else "weight")
            origin[key if name in keys else name] = key
    return origin, tuple(dropped)


def find_layouts(net: nn.Module, given: Mapping[str, Tensor], origin: Mapping[str, str], source: str) -> dict[str, str]:
    """The layout of every Cross-D convolution whose kernel is given and tells it.

    Args:
        net: the network.
        given: the checkpoint's tensors by our names.
        origin: the checkpoint's key for every name of ours.
        source: the one of :data:`LAYOUTS` that all must have, or ``"auto"``.

    Returns:
        One of :data:`LAYOUTS` by name of the convolution.

    Raises:
        ValueError: for a kernel of another layout than ``source``.
    """
    layouts = {}
    for name, convolution in crossd_convolutions(net).items():
        key = join(name, "weight")
        layout = _layout(name, convolution, given, origin[key]) if key in given else None
        if layout == "3d" and source == "crossd":
            layout = "crossd"  # the user knows better: our layout, its predictor missing
        if layout is None:
            continue
        if source not in ("auto", layout):
            raise ValueError(
                f"`source` is '{source}', but '{origin[key]}' of the checkpoint has layout '{layout}'; "
                f"pass `source='{layout}'` or 'auto'."
            )
        layouts[name] = layout
    return layouts


def _layout(
    name: str, convolution: CrossDConv | CrossDConvTranspose, given: Mapping[str, Tensor], kernel_key: str
) -> str | None:
    key = join(name, "weight")
    if kernel_key != key:
        return "published"
    if given[key].dim() == 4:
        return "2d"
    if given[key].dim() != 5 or convolution.predictor is None:
        return None  # the 5D kernel of a 1x1 convolution is the same in all other layouts
    return "crossd" if any(other.startswith(join(name, "predictor.")) for other in given) else "3d"
