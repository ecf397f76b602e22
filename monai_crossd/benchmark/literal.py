"""The published layer, operation by operation, as a competitor. For use take :class:`monai_crossd.CrossDConv`."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_crossd.layers import CrossDConv

__all__ = ["LiteralCrossDConv", "with_literal_layers"]


class LiteralCrossDConv(nn.Module):
    """Rotation matrices, the knowledge base's spectrum with a phase per image, its inverse, grouped convolution.

    Args:
        conv: the layer whose parameters are shared; without bias, zero padding.

    Shape:
        Images ``(B, C_in, H, W)`` to ``(B, C_out, H', W')``.

    Raises:
        ValueError: for a layer with bias or another padding mode, which the published one has not.

    Reference:
        Yavuz and Yang, arXiv 2411.02441v4, equations 1 to 8.
    """

    def __init__(self, conv: CrossDConv) -> None:
        super().__init__()
        if conv.bias is not None or conv.padding_mode != "zeros" or conv.predictor is None:
            raise ValueError(f"`conv` must have no bias, zero padding and K > 1, got {conv}.")
        self.conv = conv
        f = torch.fft.fftfreq(conv.kernel_size[0])
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.stack(torch.meshgrid(f, f, f, indexing="ij")))  # (3, K, K, K)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each image with its own kernel."""
        conv, b = self.conv, len(x)
        axis, angle = self._rotation(x)
        k = torch.zeros(b, 3, 3, device=x.device, dtype=axis.dtype)
        k[:, 0, 1], k[:, 0, 2], k[:, 1, 2] = -axis[:, 2], axis[:, 1], -axis[:, 0]
        k = k - k.transpose(1, 2)
        rotation = torch.eye(3, device=x.device, dtype=axis.dtype) + angle[:, None, None] * k
        turned = torch.einsum("bij,jdhw->bidhw", rotation, self.frequencies.to(axis.dtype)).sum(dim=1)  # (B, K, K, K)
        phase = torch.exp(-2j * math.pi * turned)[:, None, None]
        spectrum = torch.fft.fftn(conv.weight, dim=(-3, -2, -1))[None] * phase  # (B, C_out, C_in/groups, K, K, K)
        kernels = torch.fft.ifftn(spectrum, dim=(-3, -2, -1)).real[..., conv.kernel_size[0] // 2, :, :]
        kernels = kernels.flatten(0, 1).to(x.dtype)
        y = F.conv2d(
            x.flatten(0, 1)[None], kernels, None, conv.stride, conv._zero_padding, conv.dilation, conv.groups * b
        )
        return y.view(b, -1, *y.shape[2:])

    def _rotation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f = x
        assert self.conv.predictor is not None
        for layer in self.conv.predictor:
            f = layer(f)
        f = f.flatten(2).float() if f.dtype != torch.float64 else f.flatten(2)
        r = (f * f.softmax(dim=-1)).sum(dim=-1)  # (B, 4)
        axis = r[:, :3] / (r[:, :3].norm(dim=1, keepdim=True) + 1e-8)
        return axis, math.pi / 4 * torch.tanh(r[:, 3])


def with_literal_layers(net: nn.Module) -> nn.Module:
    """A copy of a Cross-D network whose convolutions with a predictor are literal ones."""
    net = copy.deepcopy(net)
    for name, module in list(net.named_modules()):
        if isinstance(module, CrossDConv) and module.predictor is not None:
            parent, _, own = name.rpartition(".")
            setattr(net.get_submodule(parent), own, LiteralCrossDConv(module))
    return net
