"""Kernels of other networks laid out for this one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from monai_crossd.layers import CrossDConv, CrossDConvTranspose
from monai_crossd.ops import knowledge_base, lifted_kernel, unlifted_kernel

from .layout import crossd_convolutions, join

__all__ = ["arrange"]


def arrange(
    net: nn.Module, given: Mapping[str, Tensor], own: Mapping[str, Tensor], layouts: Mapping[str, str]
) -> dict[str, Tensor]:
    """Lay the given tensors out as the network has them; a tensor that cannot be made to fit stays as it is.

    Args:
        net: the network.
        given: the checkpoint's tensors by our names.
        own: the network's tensors.
        layouts: of the Cross-D convolutions, by name.

    Returns:
        Those of ``given`` that the network has.

    Raises:
        ValueError: for 3D kernels that the lift of their convolutions cannot give.
    """
    tensors = {key: t.to(torch.promote_types(t.dtype, own[key].dtype)) for key, t in given.items() if key in own}
    for key in _stem_keys(net) & tensors.keys():
        tensors[key] = _adapt_channels(tensors[key], own[key].shape[1])
    convolutions = crossd_convolutions(net)
    refused = []
    for name, layout in layouts.items():
        key, conv = join(name, "weight"), convolutions[name]
        kernel, shape = tensors[key], conv.weight.shape
        if layout == "2d" and kernel.shape == shape[:2] + shape[3:]:
            tensors[key] = knowledge_base(kernel, conv.lift, conv.depth_stride)
        elif layout == "3d" and kernel.shape == shape:
            tensors[key] = unlifted_kernel(kernel, conv.lift, conv.depth_stride)
            lifted = lifted_kernel(tensors[key], conv.lift, conv.depth_stride)
            if not torch.allclose(lifted, kernel, equal_nan=True):
                refused.append(f"'{key}' (lift='{conv.lift}')")
    if refused:
        raise ValueError(
            f"the 3D kernels {', '.join(refused)} of the checkpoint vary along depth, which no knowledge base gives "
            "with this lift; build the network with lift='aligned'."
        )
    return tensors


def _stem_keys(net: nn.Module) -> set[str]:
    """The weights of the first convolution that read the image's channels."""
    kinds = (CrossDConv, CrossDConvTranspose, nn.modules.conv._ConvNd)
    first = next(((name, module) for name, module in net.named_modules() if isinstance(module, kinds)), None)
    if first is None or first[1].groups != 1 or not isinstance(first[1], (CrossDConv, nn.Conv2d, nn.Conv3d)):
        return set()
    return {join(first[0], "weight"), join(first[0], "predictor.0.weight")}


def _adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """Three input channels summed to one, or repeated and scaled to more, as timm does.

    One channel then answers as three equal ones.
    """
    if kernel.dim() < 4 or kernel.shape[1] != 3 or channels == 3:
        return kernel
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    repeats = [1, math.ceil(channels / 3)] + [1] * (kernel.dim() - 2)
    return kernel.repeat(repeats)[:, :channels] * (3 / channels)
