"""Predictors for the tests of kernels, and the two ways through them: by kernels, and by torch's modules."""

from __future__ import annotations

import torch
from fused import DEVICE
from torch import nn

from monai_crossd.layers.predictor import ShiftPredictor
from monai_crossd.ops import softmax_pool
from monai_crossd.ops.fused.predictor.check import check
from monai_crossd.ops.fused.predictor.launch import (
    Predictor,
    Running,
    empty_grads,
    shape_h,
    write_gradients,
    write_pool,
)


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


def parameters(net: nn.Sequential) -> Predictor:
    conv1, bn, _, conv2 = net
    return Predictor(conv1.weight, conv1.bias, bn.weight, bn.bias, conv2.weight, conv2.bias)


def launched(x: torch.Tensor, net: Predictor, bn: nn.BatchNorm2d, keep: bool) -> list[torch.Tensor]:
    """What kernels write: ``h``, which is empty unless kept, both statistics, and ``r``."""
    hidden, images = len(net.w1), len(x)
    shapes = ((4 if bn.training else 2, hidden), (3, images, 4), (images, 4))
    written = [x.new_empty(shape_h(x, hidden, keep)), *(x.new_empty(one, dtype=torch.float32) for one in shapes)]
    running = None
    if bn.running_mean is not None:
        running = Running(bn.running_mean, bn.running_var, bn.num_batches_tracked, bn.momentum)
    write_pool(x, net, running, bn.training, bn.eps, keep, *written)
    return written


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bn, keep, *net):
        *kept, r = launched(x, Predictor(*net), bn, keep)
        ctx.save_for_backward(x, *kept, *net)
        ctx.training = bn.training
        return r

    @staticmethod
    def backward(ctx, dr):
        x, h, stats, soft, *net = ctx.saved_tensors
        dx, grads = torch.empty_like(x) if ctx.needs_input_grad[0] else None, empty_grads(net)
        write_gradients(dr.contiguous(), x, h, stats, soft, Predictor(*net), ctx.training, grads, dx, add=False)
        return dx, None, None, *grads


def pool(net: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    bn, given = net[1], parameters(net)
    check(x, bn.running_mean, bn.running_var, bn.training)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *given))
    return _Pool.apply(x, bn, keep, *given)


def plain(net: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    return softmax_pool(net(x))
