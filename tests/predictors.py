"""Predictors for the tests of kernels, and the two ways through them."""

from __future__ import annotations

import torch
from torch import nn

from monai_crossd.layers.predictor import ShiftPredictor
from monai_crossd.ops import softmax_pool
from monai_crossd.ops.fused.predictor import operator as fused

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def predictor(channels: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A trained predictor, as it were: no parameter and no statistic is 0 or 1."""
    net = ShiftPredictor(channels)
    nn.init.normal_(net[1].weight, 1, 0.3)
    nn.init.normal_(net[1].bias, 0, 0.5)
    nn.init.normal_(net[3].weight, 0, 0.5)
    nn.init.normal_(net[3].bias)
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    net[1].momentum = 0.3
    return nn.Sequential(*net).to(DEVICE, dtype)


def pool(net: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    conv1, bn, _, conv2 = net
    return fused.fused_pool(
        x, conv1.weight, conv1.bias, bn.running_mean, bn.running_var, bn.weight, bn.bias, conv2.weight, conv2.bias,
        bn.training, bn.momentum, bn.eps,
    )  # fmt: skip


def plain(net: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    return softmax_pool(net(x))
