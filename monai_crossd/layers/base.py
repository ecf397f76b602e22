"""What the Cross-D convolution and its transposed form share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_crossd.ops import LIFTS, lifted_kernel, shifted_kernels

from .arguments import as_pair
from .predictor import ShiftPredictor

__all__ = ["CrossDConvNd"]


class CrossDConvNd(nn.Module):
    """Arguments, parameters and kernels."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        dilation: int | Sequence[int],
        groups: int,
        bias: bool,
        lift: str,
        transposed: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        for name, value in (("groups", groups), ("in_channels", in_channels), ("out_channels", out_channels)):
            if value < 1:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value % groups:
                raise ValueError(f"`{name}` must be divisible by `groups`={groups}, got {value}.")
        if lift not in LIFTS:
            raise ValueError(f"`lift` must be one of {', '.join(map(repr, LIFTS))}, got {lift!r}.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = as_pair(kernel_size, "kernel_size", least=1)
        if self.kernel_size[0] != self.kernel_size[1]:
            raise ValueError(f"`kernel_size` must be square, a knowledge base is a cube, got {self.kernel_size}.")
        self.stride = as_pair(stride, "stride", least=1)
        self.dilation = as_pair(dilation, "dilation", least=1)
        self.groups = groups
        self.lift = lift
        self.depth_stride = self.stride[0] // math.gcd(self.stride[0], self.dilation[0]) if transposed else 1
        c0, c1 = (in_channels, out_channels // groups) if transposed else (out_channels, in_channels // groups)
        size = self.kernel_size[0]
        self.weight = nn.Parameter(torch.empty(c0, c1, size, size, size, device=device, dtype=dtype))
        self.bias: nn.Parameter | None
        offsets = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", offsets)
        self.predictor = None if size == 1 else ShiftPredictor(in_channels).to(device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize ``weight`` and ``bias`` as :class:`torch.nn.Conv3d` does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def kernel_2d(self, x: Tensor) -> Tensor:
        """The 2D kernel of every image of ``x`` ``(B, C_in, H, W)``.

        Returns:
            ``(B, C_out, C_in/groups, K, K)``; transposed: ``(B, C_in, C_out/groups, K, K)``.
        """
        if self.predictor is None:
            return self.weight[:, :, 0].expand(x.shape[0], -1, -1, -1, -1)
        return shifted_kernels(self.weight, self.predictor(x), self.kernel_size[0])

    def kernel_3d(self) -> Tensor:
        """The 3D kernel, in the shape of ``weight``."""
        return lifted_kernel(self.weight, self.lift, self.depth_stride)

    def _cube(self, axes: tuple[int, int], name: str) -> tuple[int, int, int]:
        """An image's pair of numbers as a volume's triple."""
        if axes[0] != axes[1]:
            raise ValueError(f"`{name}` must be the same on both axes to run on volumes, got {axes}.")
        return (axes[0], axes[0], axes[0])

    def forward(self, x: Tensor) -> Tensor:
        """Images by their own kernels, volumes by the lifted one."""
        if x.dim() == 4:
            return self._forward_images(x)
        if x.dim() == 5:
            return self._forward_volumes(x)
        raise ValueError(
            f"input must be images (B, C, H, W) or volumes (B, C, D, H, W), got {x.dim()} dimensions; "
            "add the batch dimension with `x.unsqueeze(0)`."
        )

    def _forward_images(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _forward_volumes(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Arguments in the order of :class:`torch.nn.Conv2d`, and the lift."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}"
        return f"{text}, bias={self.bias is not None}, lift={self.lift!r}"
