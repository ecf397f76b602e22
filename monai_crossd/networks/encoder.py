"""The Cross-D ResNets as encoders of MONAI's FlexibleUNet."""

from __future__ import annotations

from typing import Any

from monai.networks.blocks import BaseEncoder
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE
from torch import Tensor

from .resnet import _BLOCKS, CrossDResNet

__all__ = ["CrossDResNetEncoder", "register_backbones"]


class CrossDResNetEncoder(CrossDResNet, BaseEncoder):
    """The five feature maps of a Cross-D ResNet, each half the size of the one before.

    Use it by name: ``FlexibleUNet(in_channels=1, out_channels=2, backbone="crossd_resnet18", spatial_dims=3)``. The
    decoder is MONAI's, in the dimension asked for; ``to_crossd`` of a 2D one makes that dimension-free too.

    Args:
        model_name: ``"crossd_resnet10"``, ``"crossd_resnet18"``, ``"crossd_resnet34"`` or ``"crossd_resnet50"``.
        pretrained: no weights are downloaded; load your own with :func:`monai_crossd.load_checkpoint`.
        spatial_dims: of the images to come, for MONAI; the encoder takes both.
        in_channels: channels of the input.

    Shape:
        ``(B, in_channels, *spatial)`` to a list of ``(B, C_i, *spatial / 2**i)``, ``i = 1..5``; the encoder pads as
        its strides do, so sizes not divisible by 32 need ``FlexibleUNet(is_pad=True)``, its default.

    Raises:
        ValueError: for ``pretrained=True`` and unknown names.
    """

    def __init__(self, model_name: str, pretrained: bool = False, spatial_dims: int = 2, in_channels: int = 1) -> None:
        if model_name not in _BLOCKS:
            raise ValueError(f"`model_name` must be one of {', '.join(_BLOCKS)}, got {model_name!r}.")
        if pretrained:
            raise ValueError("`pretrained` must be False; load weights with monai_crossd.load_checkpoint.")
        if spatial_dims not in (2, 3):
            raise ValueError(f"`spatial_dims` must be 2 or 3, got {spatial_dims}.")
        super().__init__(*_BLOCKS[model_name], in_channels=in_channels, feed_forward=False)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """The features of the stem and the four stages."""
        x = self.act(self.bn1(self.conv1(x)))
        features = [x]
        x = self.maxpool(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features

    @classmethod
    def get_encoder_names(cls) -> list[str]:
        """Names for ``backbone``."""
        return list(_BLOCKS)

    @classmethod
    def get_encoder_parameters(cls) -> list[dict[str, Any]]:
        """Arguments of this class for each name."""
        return [{"model_name": name, "pretrained": False, "spatial_dims": 2, "in_channels": 1} for name in _BLOCKS]

    @classmethod
    def num_channels_per_output(cls) -> list[tuple[int, ...]]:
        """Channels of the five feature maps for each name."""
        wide = {"basic": (64, 64, 128, 256, 512), "bottleneck": (64, 256, 512, 1024, 2048)}
        return [wide[block] for block, _ in _BLOCKS.values()]

    @classmethod
    def num_outputs(cls) -> list[int]:
        """Five feature maps for each name."""
        return [5] * len(_BLOCKS)


def register_backbones() -> None:
    """Make the encoders known to FlexibleUNet; once more changes nothing."""
    FLEXUNET_BACKBONE.register_class(CrossDResNetEncoder)
