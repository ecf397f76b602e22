"""The Cross-D segmentation network."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import DynUNet
from torch import nn

from monai_crossd.convert import crossd_modules_
from monai_crossd.layers import CrossDConv, CrossDConvTranspose

__all__ = ["CrossDUNet"]


class CrossDUNet(DynUNet):
    """Encoder-decoder with residual blocks and Cross-D convolutions, for images and volumes.

    The topology is nnU-Net's with residual blocks, as MONAI's :class:`monai.networks.nets.DynUNet` builds it: a
    residual block a level, instance normalization, leaky ReLU, strided convolutions down, transposed ones up. So
    ``to_3d(net).state_dict()`` loads into ``DynUNet(spatial_dims=3, res_block=True, ...)``.

    Args:
        in_channels: channels of the input.
        out_channels: classes, background included.
        filters: channels of each level; every level after the first halves the size.
        kernel_size: of the convolutions.
        dropout: probability of dropout after convolutions, none where None.
        lift: how knowledge bases become 3D kernels, see :class:`monai_crossd.CrossDConv`; the default trains every
            depth slice on volumes.

    Shape:
        ``(B, in_channels, *spatial)`` to logits ``(B, out_channels, *spatial)``; each of the two or three sizes must
        be divisible by ``2 ** (len(filters) - 1)``.

    References:
        Isensee et al., arXiv 1809.10486 and 2404.09556 (residual encoders).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int] = (32, 64, 128, 256),
        kernel_size: int = 3,
        dropout: float | None = None,
        lift: str = "aligned",
    ) -> None:
        levels = len(filters)
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=[kernel_size] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=list(filters),
            dropout=dropout,
            res_block=True,
        )
        crossd_modules_(self, lift)
        for module in self.modules():
            if isinstance(module, CrossDConv | CrossDConvTranspose):  # as DynUNet in 3D, not one slice of it
                nn.init.kaiming_normal_(module.weight, a=0.01)
