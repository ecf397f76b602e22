"""A layer's convolution alone, by one of the forms that ``ops`` chooses from on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_crossd.ops import crossd_conv2d

__all__ = ["FORMS", "FormedConv2d"]

FORMS = ("grouped", "each", "matrices", "columns")


class FormedConv2d(nn.Module):
    """Convolution of every image with its own kernel, whose shift is a parameter and not predicted.

    Args:
        images: in a batch.
        channels: of an image.
        outputs: channels of the output.
        kernel_size: ``K``.
        stride: in pixels.
        form: ``backend`` of :func:`monai_crossd.ops.crossd_conv2d`.
    """

    def __init__(self, images: int, channels: int, outputs: int, kernel_size: int, stride: int, form: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, channels, kernel_size, kernel_size, kernel_size) * 0.02)
        self.shift = nn.Parameter(torch.randn(images, 3))
        self.stride, self.form = stride, form

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, outputs, ceil(H/stride), ceil(W/stride))`` for odd ``K``, zeros around images."""
        size = self.weight.shape[-1]
        stride, padding = (self.stride, self.stride), (size // 2, size // 2)
        return crossd_conv2d(x, self.weight, self.shift, size, stride, padding, backend=self.form)
