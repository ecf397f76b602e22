"""The three conversions: a copy of the network, its modules swapped and the weights carried in one step."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from monai_crossd.layers import ShiftPredictor

from .rules import crossd_rules, plain_2d_rules, plain_3d_rules
from .swap import swap_modules

__all__ = ["crossd_modules_", "to_2d", "to_3d", "to_crossd"]

Net = TypeVar("Net", bound=nn.Module)


def to_crossd(net2d: Net, *, lift: str = "inflated") -> Net:
    """Make a 2D network take images and volumes.

    Every 2D convolution, transposed convolution, normalization, pool, upsampling and dropout becomes its Cross-D
    form. A trained network gives the same 2D output as before, because each knowledge base holds the 2D kernel at the
    rest shift and the predictors start there. Modules and parameters tied to one another stay tied; device, dtype,
    ``training`` and ``requires_grad`` survive; Cross-D modules already in the network stay as they are.

    Args:
        net2d: a network for images ``(B, C, H, W)``; it is copied, not changed.
        lift: how knowledge bases become 3D kernels, see :class:`monai_crossd.CrossDConv`. ``"inflated"`` carries
            what images taught best; to train on volumes choose ``"aligned"``.

    Returns:
        The network for images ``(B, C, H, W)`` and volumes ``(B, C, D, H, W)``.

    Raises:
        ValueError: naming every module that stands in the way, with its path and the reason; nothing is changed then.

    Example:
        >>> import torch
        >>> from monai.networks.nets import UNet
        >>> from monai_crossd import to_crossd
        >>> net = to_crossd(UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,)))
        >>> net(torch.rand(1, 1, 16, 16)).shape, net(torch.rand(1, 1, 16, 16, 16)).shape
        (torch.Size([1, 2, 16, 16]), torch.Size([1, 2, 16, 16, 16]))
    """
    return crossd_modules_(copy.deepcopy(net2d), lift)


def crossd_modules_(net2d: Net, lift: str) -> Net:
    """:func:`to_crossd` in place, for networks that build themselves as 2D ones."""
    return swap_modules(net2d, crossd_rules(lift), "to_crossd", keep_crossd=True)


def to_3d(net: Net) -> Net:
    """Make a Cross-D network a plain 3D one, for training on volumes or for running where this package is not.

    Its modules are torch's and MONAI's only, the kernels are the lifted ones, and every depth slice of them trains.
    The ``state_dict`` loads with ``strict=True`` into the same MONAI class built with ``spatial_dims=3``.

    Args:
        net: a Cross-D network; it is copied, not changed.

    Returns:
        The network for volumes ``(B, C, D, H, W)``, with the output that ``net`` gives on them.

    Raises:
        ValueError: naming every module that has no 3D form.
    """
    plain = swap_modules(copy.deepcopy(net), plain_3d_rules(), "to_3d")
    for module in plain.modules():  # MONAI's networks remember the dimension that they were built for
        for name in ("spatial_dims", "dimensions"):
            if vars(module).get(name) == 2:
                setattr(module, name, 3)
    return plain


def to_2d(net: Net, images: Tensor | Iterable[Tensor]) -> Net:
    """Freeze a Cross-D network at its mean shift over given images into a plain 2D network.

    Args:
        net: a Cross-D network; it is copied, not changed.
        images: one batch ``(B, C, H, W)`` or several, on the device of ``net``.

    Returns:
        The network for images ``(B, C, H, W)`` with one kernel per layer for all images.

    Raises:
        ValueError: naming every module that has no 2D form, or that the images do not reach.
    """
    net = copy.deepcopy(net)
    shifts = _mean_shifts(net, [images] if isinstance(images, Tensor) else images)
    return swap_modules(net, plain_2d_rules(shifts), "to_2d")


def _mean_shifts(net: nn.Module, batches: Iterable[Tensor]) -> dict[nn.Module, Tensor]:
    """Mean over all images of every predictor's shift, ``(3,)`` in voxels."""
    seen: dict[nn.Module, list[Tensor]] = {}

    def record(module: nn.Module, _inputs: tuple[Tensor, ...], s: Tensor) -> None:
        seen.setdefault(module, []).append(s)

    predictors = [module for module in net.modules() if isinstance(module, ShiftPredictor)]
    handles = [predictor.register_forward_hook(record) for predictor in predictors]
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        with torch.no_grad():
            for batch in batches:
                net(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return {predictor: torch.cat(s).mean(dim=0) for predictor, s in seen.items()}
