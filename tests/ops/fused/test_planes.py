"""The predictor's backward for images of few channels, whose sums are taken in one pass, in float64 beside it."""

from __future__ import annotations

import copy

import pytest
import torch
from fused import needs_kernels
from predictors import DEVICE, plain, pool, predictor
from torch import nn

from monai_crossd.ops.fused.predictor import launch as predictor_launch
from monai_crossd.ops.fused.predictor import planes_kernels

pytestmark = [
    pytest.mark.usefixtures("ieee"),
    needs_kernels,
]


def gradients(net: nn.Sequential, x: torch.Tensor, dr: torch.Tensor, function) -> dict[str, torch.Tensor]:
    net = copy.deepcopy(net)
    (function(net, x) * dr.to(x.dtype if x.dtype == torch.float64 else torch.float32)).sum().backward()
    return {name: p.grad.double() for name, p in net.named_parameters()}


def worst(net: nn.Sequential, x: torch.Tensor, function=pool) -> float:
    """The largest relative error of a parameter's gradient, ``x`` needing none."""
    dr = torch.randn(x.shape[0], 4, device=DEVICE)
    expected = gradients(copy.deepcopy(net).double(), x.double(), dr, plain)
    actual = gradients(net, x, dr, function)
    names = [name for name in expected if not (net.training and name == "0.bias")]  # normalization takes b1 away
    return max(((actual[name] - expected[name]).norm() / expected[name].norm()).item() for name in names)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_need_no_gradient(channels, training):
    net = predictor(channels).train(training)
    assert worst(net, torch.randn(3, channels, 13, 11, device=DEVICE)) < 1e-5


@pytest.mark.parametrize("dx", [True, False])
def test_one_pass_without_dx(dx, monkeypatch):
    seen, launch = [], predictor_launch.launch

    def watched(kernel, *args, **named):
        seen.append(kernel)
        launch(kernel, *args, **named)

    monkeypatch.setattr(predictor_launch, "launch", watched)
    pool(predictor(3), torch.randn(2, 3, 8, 8, device=DEVICE, requires_grad=dx)).sum().backward()
    assert planes_kernels.planes_sums_kernel in seen
    assert (planes_kernels.planes_input_gradient_kernel in seen) == dx


def far_from_zero(mean: float, deviation: float) -> torch.Tensor:
    return mean + deviation * torch.randn(4, 1, 19, 17, device=DEVICE)


def one_pixel_like_no_other() -> torch.Tensor:
    x = torch.randn(4, 3, 19, 17, device=DEVICE)
    x[0, :, 0, 0] += 100
    return x


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(lambda: far_from_zero(1000, 1), id="mean of a thousand deviations"),
        pytest.param(lambda: far_from_zero(-1000, 200), id="hounsfield units"),
        pytest.param(lambda: far_from_zero(0.5, 1e-3), id="small"),
        pytest.param(lambda: torch.rand(4, 1, 19, 17, device=DEVICE).expand(4, 3, 19, 17), id="gray"),
        pytest.param(one_pixel_like_no_other, id="one pixel like no other"),
    ],
)
def test_as_exact_as_torch(x):
    """Sums of products from zero would lose up to six of float32's seven digits.

    In one channel, or three that are equal, ``dW1`` nearly vanishes, so that no float32 is exact there.
    """
    x = x()
    net = predictor(x.shape[1])
    assert worst(net, x, pool) < 5 * worst(net, x, plain) + 1e-5


def test_many_tiles_and_programs(monkeypatch):
    for name, value in {"PLANES_THREADS": 32, "BLOCK_T": 2, "PROGRAMS": 7, "MULTIPROCESSORS": 1}.items():
        monkeypatch.setattr(predictor_launch, name, value)
    assert worst(predictor(2), torch.randn(5, 2, 19, 17, device=DEVICE)) < 1e-5
