"""The layouts in which a convolution's weights come, and how each enters a knowledge base.

=============  ==============================  =========================================
layout         kernel                          predictor
=============  ==============================  =========================================
``published``  ``weights_3d`` (O, I, K, K, K)  ``rotation_params.*``, for K = 1 as well
``2d``         ``weight`` (O, I, K, K)         none
``3d``         ``weight`` (O, I, K, K, K)      none
``crossd``     ``weight`` (O, I, K, K, K)      ``predictor.*``, ours
=============  ==============================  =========================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from monai_crossd.layers import CrossDConv, CrossDConvTranspose, ShiftPredictor
from monai_crossd.ops import depth_profile, knowledge_base, lifted_kernel

__all__ = ["LAYOUTS", "arrange", "crossd_convolutions", "find_layouts", "join", "to_own_names"]

LAYOUTS = ("published", "2d", "3d", "crossd")

Convolutions = Mapping[str, CrossDConv | CrossDConvTranspose]


def crossd_convolutions(net: nn.Module) -> dict[str, CrossDConv | CrossDConvTranspose]:
    """All Cross-D convolutions by name, tied ones under each of their names."""
    modules = net.named_modules(remove_duplicate=False)
    return {name: module for name, module in modules if isinstance(module, (CrossDConv, CrossDConvTranspose))}


def join(module: str, name: str) -> str:
    """``"module.name"``, or ``"name"`` for the network itself."""
    return f"{module}.{name}" if module else name


def to_own_names(state: Mapping[str, Tensor], convolutions: Convolutions) -> tuple[dict[str, str], list[str]]:
    """Our names of the checkpoint's keys.

    Returns:
        The checkpoint's key of each name of ours, and the keys of published predictors that a 1x1 convolution drops.
    """
    origin: dict[str, str] = {}
    dropped: list[str] = []
    for key in state:
        name = key
        for old, new in (("weights_3d", "weight"), ("rotation_params.", "predictor.")):
            conv, found, rest = key.rpartition(old)
            convolution = convolutions.get(conv.removesuffix("."))
            if not found or convolution is None or (conv and not conv.endswith(".")):
                continue
            if new == "predictor." and convolution.predictor is None:
                dropped.append(key)
                break
            name = conv + new + rest
        else:
            origin[key if name in state else name] = key
    return origin, dropped


def find_layouts(
    convolutions: Convolutions, state: Mapping[str, Tensor], origin: Mapping[str, str], source: str
) -> dict[str, str]:
    """The layout of every Cross-D convolution whose kernel is in ``state`` and tells it.

    Args:
        convolutions: by name.
        state: tensors by our names.
        origin: the checkpoint's key of each name.
        source: one of :data:`LAYOUTS`, which all must then have, or ``"auto"``.

    Raises:
        ValueError: for a kernel of another layout than ``source``.
    """
    layouts: dict[str, str] = {}
    for name, convolution in convolutions.items():
        key = join(name, "weight")
        layout = _layout(name, convolution, state, origin) if key in state else None
        if layout == "3d" and source == "crossd":
            layout = source  # our own convolution, its predictor missing
        if layout is None:
            continue
        if source not in ("auto", layout):
            raise ValueError(
                f"`source` is '{source}', but '{origin[key]}' of the checkpoint has layout '{layout}'; "
                "pass that one, or 'auto'."
            )
        layouts[name] = layout
    return layouts


def _layout(
    name: str, convolution: CrossDConv | CrossDConvTranspose, state: Mapping[str, Tensor], origin: Mapping[str, str]
) -> str | None:
    key = join(name, "weight")
    if origin[key] != key:
        return "published"
    if state[key].dim() == 4:
        return "2d"
    if state[key].dim() != 5 or convolution.predictor is None:
        return None  # the kernel of a 1x1 convolution is the same in all layouts but 2d
    predictor = join(name, "predictor.")
    return "crossd" if any(key.startswith(predictor) for key in state) else "3d"


def arrange(
    net: nn.Module, state: Mapping[str, Tensor], own: Mapping[str, Tensor], layouts: Mapping[str, str]
) -> dict[str, Tensor]:
    """Lay the tensors of ``state`` out as the network's ``own``; what cannot be made to fit stays as it is.

    Raises:
        ValueError: for 3D kernels that the lift of their convolutions cannot give.
    """
    arranged = {key: tensor.to(torch.promote_types(tensor.dtype, own[key].dtype)) for key, tensor in state.items()}
    for key in _stem_keys(net) & arranged.keys():
        arranged[key] = _adapt_channels(arranged[key], own[key])
    convolutions = crossd_convolutions(net)
    refused = []
    for name, layout in layouts.items():
        key, convolution = join(name, "weight"), convolutions[name]
        depth, lift = convolution.depth_stride, convolution.lift
        shape = own[key].shape
        if layout == "2d" and arranged[key].shape == shape[:2] + shape[3:]:
            arranged[key] = knowledge_base(arranged[key], lift, depth)
        elif layout == "3d" and arranged[key].shape == shape:
            base = _knowledge_base_of_3d(arranged[key], lift, depth)
            refused += [(name, lift)] if base is None else []
            arranged[key] = arranged[key] if base is None else base
    _check_lifts(refused)
    return arranged


def _knowledge_base_of_3d(kernel: Tensor, lift: str, depth_stride: int) -> Tensor | None:
    """The knowledge base that the lift turns into ``kernel`` ``(C0, C1, K, K, K)``; None where there is none."""
    base = kernel
    if lift == "aligned":
        base = kernel.roll((-1, -1, -1), dims=(-3, -2, -1))
    elif lift == "inflated":
        middle = kernel.shape[2] // 2
        share = float(depth_profile(kernel.shape[2], lift, depth_stride)[middle])
        base = knowledge_base(kernel[:, :, middle] / share, lift, depth_stride)
    return base if torch.allclose(lifted_kernel(base, lift, depth_stride), kernel) else None


def _check_lifts(refused: Iterable[tuple[str, str]]) -> None:
    names = [f"'{name}' (lift='{lift}')" for name, lift in refused]
    if names:
        raise ValueError(
            f"the 3D kernels of {', '.join(names)} in the checkpoint vary along depth, which no knowledge base gives "
            "with this lift; build the network with lift='aligned'."
        )


def _stem_keys(net: nn.Module) -> set[str]:
    """Weights of the network's first convolution that read the image's channels."""
    for name, module in net.named_modules():
        if isinstance(module, ShiftPredictor):
            continue
        if isinstance(module, (CrossDConv, nn.Conv2d, nn.Conv3d)):
            return {join(name, "weight"), join(name, "predictor.0.weight")} if module.groups == 1 else set()
    return set()


def _adapt_channels(kernel: Tensor, own: Tensor) -> Tensor:
    """Three input channels to another number, as timm does: summed to one, else repeated and scaled.

    One channel then answers as three equal ones.
    """
    channels = own.shape[1]
    if kernel.dim() < 4 or kernel.shape[1] != 3 or channels == 3:
        return kernel
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    repeats = [1, math.ceil(channels / 3)] + [1] * (kernel.dim() - 2)
    return kernel.repeat(repeats)[:, :channels] * (3 / channels)
