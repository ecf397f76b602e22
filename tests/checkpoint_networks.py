"""Small networks in every layout that checkpoints come in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from reference import cross_d_conv2d, pooled
from torch import Tensor, nn

from monai_crossd.layers import CrossDBatchNorm, CrossDConv


class PublishedConv(nn.Module):
    """The published layer: its names of parameters, the literal operator, a predictor for 1x1 kernels as well."""

    def __init__(self, c_in: int, c_out: int, k: int, stride: int = 1, padding: int = 0, bias: bool = False) -> None:
        super().__init__()
        self.weights_3d = nn.Parameter(torch.randn(c_out, c_in, k, k, k) / (c_in * k**2) ** 0.5)
        self.rotation_params = nn.Sequential(nn.Conv2d(c_in, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1))
        self.conv = {"stride": stride, "padding": padding}

    def forward(self, x: Tensor) -> Tensor:
        return cross_d_conv2d(x, self.weights_3d, pooled(self.rotation_params, x), **self.conv)


class Block(nn.Module):
    def __init__(self, conv: Callable[..., nn.Module], norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = conv(4, 6, 3, stride=2, padding=1, bias=False)
        self.bn1 = norm(6)
        self.conv2 = conv(6, 6, 3, padding=1, bias=False)
        self.bn2 = norm(6)
        self.downsample = nn.Sequential(conv(4, 6, 1, stride=2, bias=False), norm(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.downsample(x)).relu()


class MiniResNet(nn.Module):
    """One block of torchvision's ResNet with its names, of any convolution."""

    def __init__(
        self, conv: Callable[..., nn.Module], norm: type[nn.Module], channels: int = 3, classes: int = 5
    ) -> None:
        super().__init__()
        self.conv1 = conv(channels, 4, 5, stride=2, padding=2, bias=False)
        self.bn1 = norm(4)
        self.layer1 = nn.Sequential(Block(conv, norm))
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer1(self.bn1(self.conv1(x)).relu()).flatten(2).mean(dim=2))


def trained(net: nn.Module) -> nn.Module:
    """The network in evaluation, float64, with all parameters and statistics away from their start."""
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith(("bias", "running_mean")) or tensor.dim() == 1:
            tensor.copy_(torch.randn(tensor.shape) / 2)
    return net.double().eval()


def crossd(lift: str = "aligned", **kwargs: int) -> nn.Module:
    """A network to load into, its angles away from 0."""

    def conv(*args: int, **options: int) -> CrossDConv:
        return CrossDConv(*args, **options, lift=lift)

    net = trained(MiniResNet(conv, CrossDBatchNorm, **kwargs))
    for name, parameter in net.named_parameters():
        if "predictor.3" in name:
            nn.init.normal_(parameter)
    return net


def images(channels: int = 3) -> Tensor:
    return torch.randn(4, channels, 13, 14, dtype=torch.float64)


def volumes(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 9, 11, 10, dtype=torch.float64)


def tied_net() -> nn.Module:
    net = nn.ModuleDict({"a": CrossDConv(2, 2, 3), "c": nn.Linear(2, 2), "d": nn.Linear(2, 2)})
    net["b"] = net["a"]
    net["d"].weight = net["c"].weight
    return net
