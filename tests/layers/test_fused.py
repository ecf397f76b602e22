"""The layer on fused kernels against the plain layer in float64: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_crossd.layers import CrossDConv
from monai_crossd.ops.fused.availability import available

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [
    pytest.mark.usefixtures("ieee"),
    pytest.mark.skipif(
        not available(torch.zeros(1, device=DEVICE)), reason="needs Triton, and CUDA or TRITON_INTERPRET=1"
    ),
]


def layer(**arguments):
    """A layer whose images differ in their shifts and whose statistics are not at their start."""
    conv = CrossDConv(4, 17, 3, **arguments)
    for parameter in conv.predictor[3].parameters():
        nn.init.normal_(parameter)
    conv.predictor[1].running_mean.normal_()
    conv.predictor[1].running_var.uniform_(0.5, 2)
    return conv.to(DEVICE)


def results(conv, x, dy):
    x = x.detach().requires_grad_()
    y = conv(x)
    y.backward(dy.to(y.dtype))
    return [y, x.grad, *(p.grad for p in conv.parameters()), *conv.predictor[1].buffers()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_agrees_with_the_plain_layer(training, padding_mode, channels_last):
    conv = layer(padding=1, stride=2, padding_mode=padding_mode).train(training)
    x = torch.randn(3, 4, 7, 9, device=DEVICE)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    dy = torch.randn(3, 17, 4, 5, device=DEVICE)
    expected = results(copy.deepcopy(conv).double(), x.double(), dy)  # float64 has no fused kernels
    actual = results(conv, x, dy)
    if padding_mode == "zeros":  # torch's reflection does not keep channels_last on a GPU
        assert actual[0].is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for one, exact in zip(actual, expected, strict=True):
        assert (one.double() - exact).norm() <= 1e-5 * exact.double().norm() + 1e-6


def test_higher_derivatives_fall_back_on_plain_operators():
    conv = layer(padding=1)
    x = torch.randn(2, 4, 6, 6, device=DEVICE)

    def penalty(conv, x):
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, conv.weight, conv.predictor[0].weight])

    expected = penalty(copy.deepcopy(conv).double(), x.double())
    for one, exact in zip(penalty(conv, x), expected, strict=True):
        assert (one.double() - exact).norm() <= 1e-4 * exact.norm()


def test_cumulative_average_and_batch_count():
    conv = layer()
    conv.predictor[1].momentum = None
    x = torch.randn(2, 4, 6, 6, device=DEVICE)
    plain = copy.deepcopy(conv).double()
    for step in range(2):
        conv(x + step), plain(x.double() + step)
    for one, exact in zip(conv.predictor[1].buffers(), plain.predictor[1].buffers(), strict=True):
        assert (one.double() - exact).norm() <= 1e-5 * exact.double().norm()


def test_synchronized_statistics_keep_the_plain_path():
    conv = nn.SyncBatchNorm.convert_sync_batchnorm(layer()).eval()
    assert conv(torch.randn(2, 4, 6, 6, device=DEVICE)).shape == (2, 17, 4, 4)
