"""Pooling and resampling that take images and volumes alike; a volume's depth is treated as its rows and columns."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CrossDAdaptiveAvgPool", "CrossDAdaptiveMaxPool", "CrossDAvgPool", "CrossDMaxPool", "CrossDUpsample"]


def _is_volume(x: Tensor) -> bool:
    if x.dim() != 4 and x.dim() != 5:
        raise ValueError(f"input must be images (B, C, H, W) or volumes (B, C, D, H, W), got {x.dim()} dimensions.")
    return x.dim() == 5


class CrossDMaxPool(nn.Module):
    """:class:`torch.nn.MaxPool2d` and :class:`torch.nn.MaxPool3d`, with one number per argument.

    Args:
        kernel_size: in pixels.
        stride: in pixels; ``kernel_size`` where None.
        padding: in pixels.
        dilation: in pixels.
        ceil_mode: whether the output size is rounded up.
    """

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` or ``(B, C, D, H, W)``, sizes as torch computes them."""
        k, s, p, d, ceil = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        if _is_volume(x):
            return F.max_pool3d(x, (k, k, k), (s, s, s), (p, p, p), (d, d, d), ceil)
        return F.max_pool2d(x, (k, k), (s, s), (p, p), (d, d), ceil)

    def extra_repr(self) -> str:
        """Arguments as torch shows them."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class CrossDAvgPool(nn.Module):
    """:class:`torch.nn.AvgPool2d` and :class:`torch.nn.AvgPool3d`, with one number per argument.

    Args:
        kernel_size: in pixels.
        stride: in pixels; ``kernel_size`` where None.
        padding: in pixels.
        ceil_mode: whether the output size is rounded up.
        count_include_pad: whether the zeros of the padding count in the mean.
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        padding: int = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` or ``(B, C, D, H, W)``, sizes as torch computes them."""
        k, s, p, ceil, count = self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        if _is_volume(x):
            return F.avg_pool3d(x, (k, k, k), (s, s, s), (p, p, p), ceil, count)
        return F.avg_pool2d(x, (k, k), (s, s), (p, p), ceil, count)

    def extra_repr(self) -> str:
        """Arguments as torch shows them."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class CrossDAdaptiveAvgPool(nn.Module):
    """:class:`torch.nn.AdaptiveAvgPool2d` and ``AdaptiveAvgPool3d``.

    Args:
        output_size: pixels of every spatial axis.
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` or ``(B, C, D, H, W)`` to ``output_size`` on every spatial axis."""
        n = self.output_size
        return F.adaptive_avg_pool3d(x, (n, n, n)) if _is_volume(x) else F.adaptive_avg_pool2d(x, (n, n))

    def extra_repr(self) -> str:
        """Arguments as torch shows them."""
        return f"output_size={self.output_size}"


class CrossDAdaptiveMaxPool(CrossDAdaptiveAvgPool):
    """:class:`torch.nn.AdaptiveMaxPool2d` and ``AdaptiveMaxPool3d``.

    Args:
        output_size: pixels of every spatial axis.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` or ``(B, C, D, H, W)`` to ``output_size`` on every spatial axis."""
        n = self.output_size
        return F.adaptive_max_pool3d(x, (n, n, n)) if _is_volume(x) else F.adaptive_max_pool2d(x, (n, n))


class CrossDUpsample(nn.Module):
    """:class:`torch.nn.Upsample` by one factor for images and volumes.

    Args:
        scale_factor: of every spatial axis.
        mode: ``"nearest"``, ``"nearest-exact"`` or ``"linear"`` (bilinear for images, trilinear for volumes).
        align_corners: as of :class:`torch.nn.Upsample`, for ``"linear"``.

    Raises:
        ValueError: for another mode; no other exists for images and volumes.
    """

    def __init__(self, scale_factor: float, mode: str = "nearest", align_corners: bool | None = None) -> None:
        super().__init__()
        if mode not in ("nearest", "nearest-exact", "linear"):
            raise ValueError(f"`mode` must be 'nearest', 'nearest-exact' or 'linear', got {mode!r}.")
        self.scale_factor = float(scale_factor)
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` or ``(B, C, D, H, W)`` to the scaled size."""
        volume = _is_volume(x)
        mode = self.mode
        if mode == "linear":
            mode = "trilinear" if volume else "bilinear"
        scale = [self.scale_factor] * (3 if volume else 2)
        return F.interpolate(x, scale_factor=scale, mode=mode, align_corners=self.align_corners)

    def extra_repr(self) -> str:
        """Arguments as torch shows them."""
        return f"scale_factor={self.scale_factor}, mode={self.mode!r}"
