"""The Cross-D convolution and its transposed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_crossd.ops import (
    LIFTS,
    ConvArguments,
    crossd_conv2d,
    crossd_conv_transpose2d,
    lifted_kernel,
    runs_fused,
    shifted_kernels,
)

from .arguments import as_pair, sides
from .predictor import ShiftPredictor

__all__ = ["CrossDConv", "CrossDConvTranspose"]


class _CrossDConvNd(nn.Module):
    """What the convolution and its transposed form share: arguments, parameters, kernels."""

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

    def _refuse_rank(self, x: Tensor) -> Tensor:
        raise ValueError(
            f"input must be images (B, C, H, W) or volumes (B, C, D, H, W), got {x.dim()} dimensions; "
            "add the batch dimension with `x.unsqueeze(0)`."
        )

    def extra_repr(self) -> str:
        """Arguments in the order of :class:`torch.nn.Conv2d`, and the lift."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}"
        return f"{text}, bias={self.bias is not None}, lift={self.lift!r}"


class CrossDConv(_CrossDConvNd):
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

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images with their own kernels, volumes with the lifted one."""
        if x.dim() == 4:
            return self._forward_images(x)
        if x.dim() == 5:
            return self._forward_volumes(x)
        return self._refuse_rank(x)

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
        from monai_crossd.ops.fused.layer import fused_layer  # registering operators takes long

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


class CrossDConvTranspose(_CrossDConvNd):
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

    def forward(self, x: Tensor) -> Tensor:
        """Upsample images with their own kernels, volumes with the lifted one."""
        if x.dim() == 4:
            return self._forward_images(x)
        if x.dim() == 5:
            return self._forward_volumes(x)
        return self._refuse_rank(x)

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
