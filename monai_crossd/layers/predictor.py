"""The small network that reads a shift from every image."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from monai_crossd.ops import batch_statistics, pooled_features, rotation_to_shift, softmax_pool

__all__ = ["ShiftPredictor"]

_LAYERS = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]


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
            if self._grows(input):
                return rotation_to_shift(self._pooled(input))
        for layer in self:
            input = layer(input)
        return rotation_to_shift(softmax_pool(input))  # (B, 4, H, W) -> (B, 4) -> (B, 3)

    @torch.jit.unused
    def _grows(self, x: Tensor) -> bool:
        """Whether the maps are larger than ``x`` and, on a CPU in eager mode, can do without memory of their own."""
        graph = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if graph or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        if x.dim() != 4 or torch.autograd.forward_ad._current_level >= 0 or [type(layer) for layer in self] != _LAYERS:
            return False
        first = cast(nn.Conv2d, self[0])
        one_dtype = x.dtype in (torch.float32, torch.float64) and all(x.dtype == p.dtype for p in self.parameters())
        return one_dtype and x.shape[1] == first.in_channels < first.out_channels and x.numel() > x.shape[1]

    @torch.jit.unused
    def _pooled(self, x: Tensor) -> Tensor:
        first, norm, _, last = cast("tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module, nn.Conv2d]", tuple(self))
        x = x.as_subclass(Tensor)  # of MONAI's, which know their file
        mean, var, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
        of_batch = norm.training or mean is None or var is None
        if of_batch:
            mean, var = batch_statistics(x, first.weight, cast(Tensor, first.bias))
        mean, var = cast(Tensor, mean), cast(Tensor, var)
        if norm.training and norm.running_mean is not None and norm.running_var is not None and batches is not None:
            batches.add_(1)
            factor = 1 / int(batches) if norm.momentum is None else norm.momentum
            pixels = x.numel() // x.shape[1]
            norm.running_mean.lerp_(mean, factor)
            norm.running_var.lerp_(var * (pixels / (pixels - 1)), factor)
        net = (first.weight, first.bias, norm.weight, norm.bias, last.weight, last.bias)
        return pooled_features(x, cast("tuple[Tensor, ...]", net), mean, var, norm.eps, of_batch)
