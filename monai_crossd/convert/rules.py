"""One table a conversion: the new module for each class of old module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from monai_crossd.layers import (
    CrossDAdaptiveAvgPool,
    CrossDAdaptiveMaxPool,
    CrossDAvgPool,
    CrossDBatchNorm,
    CrossDConv,
    CrossDConvTranspose,
    CrossDDropout,
    CrossDInstanceNorm,
    CrossDMaxPool,
    CrossDUpsample,
)
from monai_crossd.ops import knowledge_base, shifted_kernels

from .swap import Rules

__all__ = ["crossd_rules", "plain_2d_rules", "plain_3d_rules"]

AnyConv = CrossDConv | CrossDConvTranspose


def crossd_rules(lift: str) -> Rules:
    """2D modules to Cross-D ones."""
    return {
        nn.Conv2d: partial(_crossd_conv, lift=lift),
        nn.ConvTranspose2d: partial(_crossd_conv_transpose, lift=lift),
        nn.BatchNorm2d: partial(_norm, CrossDBatchNorm),
        nn.InstanceNorm2d: partial(_norm, CrossDInstanceNorm),
        nn.MaxPool2d: _crossd_max_pool,
        nn.AvgPool2d: _crossd_avg_pool,
        nn.AdaptiveAvgPool2d: lambda old: CrossDAdaptiveAvgPool(_number(old.output_size, "output_size")),
        nn.AdaptiveMaxPool2d: _crossd_adaptive_max_pool,
        nn.Upsample: _crossd_upsample,
        nn.UpsamplingNearest2d: _crossd_upsample,
        nn.UpsamplingBilinear2d: _crossd_upsample,
        nn.Dropout2d: lambda old: CrossDDropout(old.p, old.inplace),
    }


def plain_3d_rules() -> Rules:
    """Cross-D modules to torch's 3D ones."""
    pools: dict[type[nn.Module], type[nn.Module]] = {CrossDMaxPool: nn.MaxPool3d, CrossDAvgPool: nn.AvgPool3d}
    return _plain_rules(_conv_3d, nn.BatchNorm3d, nn.InstanceNorm3d, pools, nn.Dropout3d) | {
        CrossDAdaptiveAvgPool: lambda old: nn.AdaptiveAvgPool3d((old.output_size,) * 3),
        CrossDAdaptiveMaxPool: lambda old: nn.AdaptiveMaxPool3d((old.output_size,) * 3),
        CrossDUpsample: partial(_upsample, linear="trilinear", spatial_dims=3),
    }


def plain_2d_rules(shifts: dict[nn.Module, Tensor]) -> Rules:
    """Cross-D modules to torch's 2D ones, convolutions at the given shift ``(3,)`` of their predictor."""
    pools: dict[type[nn.Module], type[nn.Module]] = {CrossDMaxPool: nn.MaxPool2d, CrossDAvgPool: nn.AvgPool2d}
    conv = partial(_conv_2d, shifts=shifts)
    return _plain_rules(conv, nn.BatchNorm2d, nn.InstanceNorm2d, pools, nn.Dropout2d) | {
        CrossDAdaptiveAvgPool: lambda old: nn.AdaptiveAvgPool2d((old.output_size,) * 2),
        CrossDAdaptiveMaxPool: lambda old: nn.AdaptiveMaxPool2d((old.output_size,) * 2),
        CrossDUpsample: partial(_upsample, linear="bilinear", spatial_dims=2),
    }


def _plain_rules(
    conv: Callable[[Any], nn.Module],
    batch_norm: type[nn.Module],
    instance_norm: type[nn.Module],
    pools: dict[type[nn.Module], type[nn.Module]],
    dropout: type[nn.Module],
) -> Rules:
    """What both plain dimensions share."""
    return {
        CrossDConv: conv,
        CrossDConvTranspose: conv,
        CrossDBatchNorm: partial(_norm, batch_norm),
        CrossDInstanceNorm: partial(_norm, instance_norm),
        CrossDMaxPool: lambda old: pools[CrossDMaxPool](
            old.kernel_size, old.stride, old.padding, old.dilation, ceil_mode=old.ceil_mode
        ),
        CrossDAvgPool: lambda old: pools[CrossDAvgPool](
            old.kernel_size, old.stride, old.padding, old.ceil_mode, old.count_include_pad
        ),
        CrossDDropout: lambda old: dropout(old.p, old.inplace),
    }


def _crossd_conv(old: nn.Conv2d, lift: str) -> CrossDConv:
    new = CrossDConv(
        old.in_channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        old.dilation,
        old.groups,
        old.bias is not None,
        old.padding_mode,
        lift=lift,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    return _lay_out(new, old)


def _crossd_conv_transpose(old: Any, lift: str) -> CrossDConvTranspose:
    new = CrossDConvTranspose(
        old.in_channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        old.output_padding,
        old.groups,
        old.bias is not None,
        old.dilation,
        lift=lift,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    return _lay_out(new, old)


def _lay_out(new: Any, old: Any) -> Any:
    """Carry the 2D kernel into the knowledge base, and with it whether it trains."""
    new.weight.copy_(knowledge_base(old.weight, new.lift, new.depth_stride))
    new.requires_grad_(old.weight.requires_grad)
    if old.bias is not None:
        new.bias = old.bias
    return new


def _conv_3d(old: AnyConv) -> nn.Module:
    arguments = {name: old._cube(getattr(old, name), name)[0] for name in ("stride", "dilation")}
    padding = old.padding if isinstance(old.padding, str) else old._cube(old.padding, "padding")[0]
    if isinstance(old, CrossDConvTranspose):
        arguments["output_padding"] = old._cube(old.output_padding, "output_padding")[0]
    cls = nn.ConvTranspose3d if isinstance(old, CrossDConvTranspose) else nn.Conv3d
    return _plain_conv(cls, old, old.kernel_3d(), padding=padding, **arguments)


def _conv_2d(old: AnyConv, shifts: dict[nn.Module, Tensor]) -> nn.Module:
    if old.predictor is None:
        kernel = old.weight[:, :, 0]
    elif old.predictor in shifts:
        kernel = shifted_kernels(old.weight, shifts[old.predictor][None], old.kernel_size[0])[0]
    else:
        raise ValueError("no image reached it, so it has no mean shift; give images that the whole network sees")
    arguments: dict[str, Any] = {"stride": old.stride, "dilation": old.dilation, "padding": old.padding}
    if isinstance(old, CrossDConvTranspose):
        arguments["output_padding"] = old.output_padding
    return _plain_conv(
        nn.ConvTranspose2d if isinstance(old, CrossDConvTranspose) else nn.Conv2d, old, kernel, **arguments
    )


def _plain_conv(cls: Any, old: AnyConv, kernel: Tensor, **arguments: Any) -> nn.Module:
    new = cls(
        old.in_channels,
        old.out_channels,
        old.kernel_size[0],
        groups=old.groups,
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
        device=old.weight.device,
        dtype=old.weight.dtype,
        **arguments,
    )
    new.weight.copy_(kernel)
    new.weight.requires_grad_(old.weight.requires_grad)
    if old.bias is not None:
        new.bias = old.bias
    return new


def _norm(cls: type[nn.Module], old: Any) -> nn.Module:
    new: Any = cls(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
    for name in ("weight", "bias"):
        setattr(new, name, getattr(old, name))
    for name, buffer in old.named_buffers(recurse=False):
        setattr(new, name, buffer)
    return new


def _crossd_max_pool(old: nn.MaxPool2d) -> CrossDMaxPool:
    if old.return_indices:
        raise ValueError("`return_indices` has no form for images and volumes")
    sizes = {name: _number(getattr(old, name), name) for name in ("kernel_size", "stride", "padding", "dilation")}
    return CrossDMaxPool(**sizes, ceil_mode=old.ceil_mode)


def _crossd_avg_pool(old: nn.AvgPool2d) -> CrossDAvgPool:
    if old.divisor_override is not None:
        raise ValueError("`divisor_override` has no form for images and volumes")
    sizes = {name: _number(getattr(old, name), name) for name in ("kernel_size", "stride", "padding")}
    return CrossDAvgPool(**sizes, ceil_mode=old.ceil_mode, count_include_pad=old.count_include_pad)


def _crossd_adaptive_max_pool(old: nn.AdaptiveMaxPool2d) -> CrossDAdaptiveMaxPool:
    if old.return_indices:
        raise ValueError("`return_indices` has no form for images and volumes")
    return CrossDAdaptiveMaxPool(_number(old.output_size, "output_size"))


def _crossd_upsample(old: nn.Upsample) -> CrossDUpsample:
    modes = {"nearest": "nearest", "nearest-exact": "nearest-exact", "bilinear": "linear"}
    if old.mode not in modes:
        raise ValueError(f"mode '{old.mode}' has no form for volumes; use 'nearest' or 'bilinear'")
    if old.scale_factor is None:
        raise ValueError(f"`size`={old.size} is a size of images; give `scale_factor`")
    return CrossDUpsample(_number(old.scale_factor, "scale_factor"), modes[old.mode], old.align_corners)


def _upsample(old: CrossDUpsample, linear: str, spatial_dims: int) -> nn.Upsample:
    mode = linear if old.mode == "linear" else old.mode
    return nn.Upsample(scale_factor=(old.scale_factor,) * spatial_dims, mode=mode, align_corners=old.align_corners)


def _number(value: Any, name: str) -> Any:
    """One number for all axes."""
    numbers = set(value) if isinstance(value, tuple | list | torch.Size) else {value}
    if len(numbers) != 1 or None in numbers:
        raise ValueError(f"`{name}`={value} differs between axes or is open; give one number")
    return numbers.pop()
