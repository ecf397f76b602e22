"""The transposed form of the Cross-D convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_crossd.ops import crossd_conv_transpose2d

from .arguments import as_pair
from .base import CrossDConvNd

__all__ = ["CrossDConvTranspose"]


class CrossDConvTranspose(CrossDConvNd):
    """Transposed convolution with one knowledge base for images and volumes.

    The form that :class:`CrossDConv` takes for :class:`torch.nn.ConvTranspose2d`, with its arguments and defaults;
    ``weight`` is ``(C_in, C_out/groups, K, K, K)``, the predictor reads the input. The paper has no transposed form.

    Args:
        in_channels: ``C_in``.
        out_channels: ``C_out``.
        kernel_size: ``K``, one number or equal ones.
        stride: in pixels; unequal numbers run on images only, as for all pairs below.
        padding: in pixels, ``dilation * (K - 1) - padding`` zeros are added to both sides.
        output_padding: in pixels, size added on one side.
        groups: blocks of channels.
        bias: whether there is a bias.
        dilation: in pixels.
        padding_mode: ``"zeros"``, the only one that a transposed convolution has.
        lift: as of :class:`CrossDConv`.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: for an argument out of its range, naming it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        *,
        lift: str = "inflated",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, bias, lift, True, device, dtype
        )
        if padding_mode != "zeros":
            raise ValueError(f"`padding_mode` of a transposed convolution must be 'zeros', got {padding_mode!r}.")
        self.padding = as_pair(padding, "padding", least=0)
        self.output_padding = as_pair(output_padding, "output_padding", least=0)
        for axis in (0, 1):
            if self.output_padding[axis] >= max(self.stride[axis], self.dilation[axis]):
                raise ValueError(
                    f"`output_padding` must be smaller than `stride` or `dilation`, got {self.output_padding} with "
                    f"stride {self.stride} and dilation {self.dilation}."
                )
        self.padding_mode = padding_mode

    def _forward_images(self, x: Tensor) -> Tensor:
        predictor = self.predictor
        stride, padding, output_padding = self.stride, self.padding, self.output_padding
        if predictor is None:
            kernel = self.weight[:, :, 0]
            return F.conv_transpose2d(x, kernel, self.bias, stride, padding, output_padding, self.groups, self.dilation)
        s = predictor(x)
        y = crossd_conv_transpose2d(
            x, self.weight, s, self.kernel_size[0], stride, padding, output_padding, self.groups, self.dilation
        )
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]

    def _forward_volumes(self, x: Tensor) -> Tensor:
        stride, dilation = self._cube(self.stride, "stride"), self._cube(self.dilation, "dilation")
        padding = self._cube(self.padding, "padding")
        output_padding = self._cube(self.output_padding, "output_padding")
        kernel = self.kernel_3d()
        return F.conv_transpose3d(x, kernel, self.bias, stride, padding, output_padding, self.groups, dilation)
