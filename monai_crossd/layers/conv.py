"""The Cross-D convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_crossd.ops import ConvArguments, crossd_conv2d, runs_fused

from .arguments import as_pair, sides
from .base import CrossDConvNd

__all__ = ["CrossDConv"]


class CrossDConv(CrossDConvNd):
    r"""Convolution with one knowledge base for images and volumes.

    ``weight`` is the knowledge base ``U``. From images the predictor reads an axis ``k`` and an angle ``theta`` per
    image; ``U`` is shifted by ``s = 1 + theta (1 x k)``, and its middle slice is that image's own 2D kernel:

    .. math:: y_b = \mathrm{conv2d}(x_b, (T_{s_b} U)_{K//2}) + \mathrm{bias}

    On volumes the 3D kernel is ``U``, lifted. Input is told apart by its rank, so unbatched input raises.

    Differences from the published layer: the closed form replaces the FFT (equal to it, odd and even ``K``); bias,
    dilation, padding modes and tuples work; ``K = 1`` has no predictor; the angle starts at zero;
    ``weight`` starts as in :class:`torch.nn.Conv3d`; softmax and shift are computed in float32 at least.

    Args:
        in_channels: ``C_in``.
        out_channels: ``C_out``.
        kernel_size: ``K``, one number or equal ones.
        stride: in pixels; a pair of unequal numbers runs on images only.
        padding: in pixels, or ``"same"`` or ``"valid"``; a pair of unequal numbers runs on images only.
        dilation: in pixels; a pair of unequal numbers runs on images only.
        groups: blocks of channels.
        bias: whether there is a bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        lift: how ``U`` becomes the 3D kernel. ``"inflated"`` carries what images taught best, but keeps the 3D kernel
            constant along depth: to train on volumes choose ``"aligned"``. ``"published"`` is the paper's.
        device: of the parameters.
        dtype: of the parameters.

    Shape:
        Images ``(B, C_in, H, W)`` to ``(B, C_out, H', W')``, volumes ``(B, C_in, D, H, W)`` to
        ``(B, C_out, D', H', W')``, sizes as of :class:`torch.nn.Conv2d` and :class:`torch.nn.Conv3d`.

    Raises:
        ValueError: for an argument out of its range, naming it.

    Reference:
        Yavuz and Yang, arXiv 2411.02441v4.

    Example:
        >>> import torch
        >>> from monai_crossd import CrossDConv
        >>> conv = CrossDConv(1, 8, kernel_size=3, padding=1)
        >>> conv(torch.rand(2, 1, 32, 32)).shape, conv(torch.rand(2, 1, 16, 32, 32)).shape
        (torch.Size([2, 8, 32, 32]), torch.Size([2, 8, 16, 32, 32]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        lift: str = "inflated",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, bias, lift, False, device, dtype
        )
        modes = ("zeros", "reflect", "replicate", "circular")
        if padding_mode not in modes:
            raise ValueError(f"`padding_mode` must be one of {', '.join(map(repr, modes))}, got {padding_mode!r}.")
        self.padding = padding if isinstance(padding, str) else as_pair(padding, "padding", least=0)
        self.padding_mode = padding_mode
        self._pad_mode = "constant" if padding_mode == "zeros" else padding_mode
        before, after = sides(self.padding, self.kernel_size, self.stride, self.dilation)
        by_conv = padding_mode == "zeros" and before == after
        self._zero_padding = before if by_conv else (0, 0)  # what the convolution itself pads, per axis
        self._edges = (
            [0] * 4 if by_conv else [before[1], after[1], before[0], after[0]]
        )  # what F.pad does, last axis first

    def _forward_images(self, x: Tensor) -> Tensor:
        predictor = self.predictor
        if predictor is None:
            x = self._pad(x, self._edges)
            kernel = self.weight[:, :, 0]
            return F.conv2d(x, kernel, self.bias, self.stride, self._zero_padding, self.dilation, self.groups)
        if not torch.jit.is_scripting():
            weight = self.weight
            if runs_fused(x, weight):
                layers = tuple(predictor)
                if type(layers[1]) is nn.BatchNorm2d:
                    y = self._fused(x, weight, layers)
                    return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]
        s = predictor(x)
        x = self._pad(x, self._edges)
        y = crossd_conv2d(
            x, self.weight, s, self.kernel_size[0], self.stride, self._zero_padding, self.dilation, self.groups
        )
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]

    @torch.jit.unused
    def _fused(self, x: Tensor, weight: Tensor, predictor: tuple[nn.Module, ...]) -> Tensor:
        from monai_crossd.ops.fused.layer.function import fused_layer  # registering operators takes long

        padded = self._pad(x, self._edges) if max(self._edges) > 0 else None
        conv = ConvArguments(self.stride, self._zero_padding, self.dilation, groups=self.groups)
        return fused_layer(x, padded, weight, predictor, conv)

    def _forward_volumes(self, x: Tensor) -> Tensor:
        stride, dilation = self._cube(self.stride, "stride"), self._cube(self.dilation, "dilation")
        padding = self._cube(self._zero_padding, "padding")
        self._cube((self._edges[2], self._edges[0]), "padding")
        x = self._pad(x, self._edges + self._edges[:2])
        return F.conv3d(x, self.kernel_3d(), self.bias, stride, padding, dilation, self.groups)

    def _pad(self, x: Tensor, edges: list[int]) -> Tensor:
        if max(edges) == 0:
            return x
        if not torch.jit.is_scripting():
            if torch.compiler.is_compiling() and x.dim() == 4 and self.predictor is not None:
                # folded as for the convolution: Inductor fails on the fold of a padded image of dynamic size
                # (https://github.com/pytorch/pytorch/issues/185510)
                b, c, h, w = x.shape
                y = F.pad(x.reshape(1, b * c, h, w), edges, mode=self._pad_mode)
                return y.reshape(b, c, y.shape[2], y.shape[3])
        return F.pad(x, edges, mode=self._pad_mode)
