"""The small network that reads a shift from every image."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from monai_crossd.ops import rotation_to_shift, softmax_pool

__all__ = ["ShiftPredictor"]

FEW = 16  # channels that a CPU's vector has room for


class ShiftPredictor(nn.Sequential):
    """Reads from every image the shift of its knowledge base: 1x1 convolutions, softmax pooling, axis and angle.

    The angle's row of the last convolution starts at zero, so a new layer starts at the rest shift (1, 1, 1) and
    learns to leave it. The layers keep the published order, so published weights load.

    Args:
        in_channels: ``C_in``.
        hidden_channels: channels between the two convolutions, 16 as published.
    """

    def __init__(self, in_channels: int, hidden_channels: int = 16) -> None:
        super().__init__(
            nn.Conv2d(in_channels, hidden_channels, kernel_size=1),
            nn.BatchNorm2d(hidden_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_channels, 4, kernel_size=1),
        )
        self.reset_angle()

    @torch.jit.unused
    def reset_angle(self) -> None:
        """Set the angle to zero for every image: the 2D kernel is then the rest-shift kernel."""
        for parameter in self[3].parameters():
            nn.init.zeros_(parameter[3])

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` to shifts ``(B, 3)`` in voxels, float32 at least."""
        if not torch.jit.is_scripting():
            few = 1 < cast(nn.Conv2d, self[0]).in_channels < FEW
            if few and input.device.type == "cpu" and not torch.compiler.is_compiling():
                input = input.contiguous(memory_format=torch.channels_last)  # takes a CPU's library half the time
        for layer in self:
            input = layer(input)
        return rotation_to_shift(softmax_pool(input))  # (B, 4, H, W) -> (B, 4) -> (B, 3)
