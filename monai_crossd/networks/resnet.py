"""ResNets of Cross-D layers for 2D and 3D classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.nets import ResNet

from monai_crossd.convert import crossd_modules_

__all__ = ["CrossDResNet", "crossd_resnet10", "crossd_resnet18", "crossd_resnet34", "crossd_resnet50"]


class CrossDResNet(ResNet):
    """ResNet whose convolutions are :class:`monai_crossd.CrossDConv`, for images and volumes.

    Topology and parameter names are torchvision's (``conv1``, ``bn1``, ``layer1.0.conv1``, ``downsample.0``, ``fc``),
    built as MONAI's :class:`monai.networks.nets.ResNet` with shortcut type B, so weights of either load with
    :func:`monai_crossd.load_checkpoint`.

    Args:
        block: ``"basic"`` or ``"bottleneck"``.
        layers: blocks of the four stages.
        in_channels: channels of the input.
        num_classes: outputs of the last linear layer.
        block_inplanes: channels of the four stages.
        conv1_t_size: kernel size of the first convolution.
        conv1_t_stride: stride of the first convolution.
        no_max_pool: whether the pool after it is left out.
        feed_forward: whether there is the last linear layer; without it the output is the pooled features.
        lift: how knowledge bases become 3D kernels, see :class:`monai_crossd.CrossDConv`.

    Shape:
        ``(B, in_channels, H, W)`` or ``(B, in_channels, D, H, W)`` to ``(B, num_classes)``.

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385.
    """

    def __init__(
        self,
        block: str,
        layers: Sequence[int],
        in_channels: int = 3,
        num_classes: int = 1000,
        *,
        block_inplanes: Sequence[int] = (64, 128, 256, 512),
        conv1_t_size: int = 7,
        conv1_t_stride: int = 2,
        no_max_pool: bool = False,
        feed_forward: bool = True,
        lift: str = "inflated",
    ) -> None:
        super().__init__(
            block=block,
            layers=list(layers),
            block_inplanes=list(block_inplanes),
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_size=conv1_t_size,
            conv1_t_stride=conv1_t_stride,
            no_max_pool=no_max_pool,
            num_classes=num_classes,
            feed_forward=feed_forward,
            bias_downsample=False,
        )
        crossd_modules_(self, lift)


_BLOCKS: dict[str, tuple[str, tuple[int, ...]]] = {
    "crossd_resnet10": ("basic", (1, 1, 1, 1)),
    "crossd_resnet18": ("basic", (2, 2, 2, 2)),
    "crossd_resnet34": ("basic", (3, 4, 6, 3)),
    "crossd_resnet50": ("bottleneck", (3, 4, 6, 3)),
}


def crossd_resnet10(**kwargs: Any) -> CrossDResNet:
    """:class:`CrossDResNet` with 10 layers; ``kwargs`` are its arguments from ``in_channels`` on."""
    return CrossDResNet(*_BLOCKS["crossd_resnet10"], **kwargs)


def crossd_resnet18(**kwargs: Any) -> CrossDResNet:
    """:class:`CrossDResNet` with 18 layers; ``kwargs`` are its arguments from ``in_channels`` on."""
    return CrossDResNet(*_BLOCKS["crossd_resnet18"], **kwargs)


def crossd_resnet34(**kwargs: Any) -> CrossDResNet:
    """:class:`CrossDResNet` with 34 layers; ``kwargs`` are its arguments from ``in_channels`` on."""
    return CrossDResNet(*_BLOCKS["crossd_resnet34"], **kwargs)


def crossd_resnet50(**kwargs: Any) -> CrossDResNet:
    """:class:`CrossDResNet` with 50 layers; ``kwargs`` are its arguments from ``in_channels`` on."""
    return CrossDResNet(*_BLOCKS["crossd_resnet50"], **kwargs)
