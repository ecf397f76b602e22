"""The predictor of few channels on a CPU beside the modules that it is made of."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.testing import assert_close

from monai_crossd.layers import ShiftPredictor
from monai_crossd.ops import pooled, rotation_to_shift, softmax_pool


@pytest.fixture(params=["parts", "whole"])
def maps_in(request, monkeypatch):
    if request.param == "parts":
        monkeypatch.setattr(pooled, "_PART", 1)


def predictor(channels=3, dtype=torch.float64):
    net = ShiftPredictor(channels).to(dtype)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    nn.init.normal_(net[1].running_mean)
    nn.init.uniform_(net[1].running_var, 0.5, 2)
    return net


def by_modules(net, x):
    for layer in net:
        x = layer(x)
    return rotation_to_shift(softmax_pool(x))


def images(requires_grad=True, **arguments):
    return torch.randn(4, 3, 7, 6, dtype=torch.float64, requires_grad=requires_grad, **arguments)


@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_agrees_with_its_modules(train, momentum, layout, maps_in):
    net, x = predictor().train(train), images()
    net[1].momentum = momentum
    plain = copy.deepcopy(net)
    for _ in range(2):
        s, expected = net(x.contiguous(memory_format=layout)), by_modules(plain, x)
    assert_close(s, expected)
    assert_close(list(net.buffers()), list(plain.buffers()))
    ds = torch.randn_like(s)
    ours = torch.autograd.grad(s, [x, *net.parameters()], ds)
    assert_close(ours, torch.autograd.grad(expected, [x, *plain.parameters()], ds), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("train", [True, False])
def test_derivatives(train, maps_in):
    net, x = predictor().train(train), images()[:2, :, :3, :2].detach().requires_grad_()
    inputs = [x, *net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    def call(x, *parameters):
        return torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_large_means_cost_no_precision():
    net, x = predictor(dtype=torch.float32).train(), torch.randn(2, 3, 64, 64) * 10 + 1000
    wide, of_wide = copy.deepcopy(net).double(), x.double()
    s, expected = net(x), by_modules(wide, of_wide)
    assert_close(s.double(), expected, rtol=0, atol=1e-3)
    ours = torch.autograd.grad(s.sum(), net[1].weight)
    theirs = torch.autograd.grad(expected.sum(), wide[1].weight)
    assert_close(ours[0].double(), theirs[0], rtol=1e-2, atol=1e-3)


def test_without_running_statistics_those_of_the_batch_are_taken():
    net, x = predictor(), images()
    net[1] = nn.BatchNorm2d(16, track_running_stats=False).double()
    for train in (True, False):
        assert_close(net.train(train)(x), by_modules(net, x))


def test_frozen_inputs(maps_in):
    net, x = predictor().requires_grad_(False), images()
    (dx,) = torch.autograd.grad(net(x)[:, 0].sum(), x)
    assert_close(dx, torch.autograd.grad(by_modules(net, x)[:, 0].sum(), x)[0])
    net, x = predictor(), images(requires_grad=False)
    weight = net[0].weight
    (dw,) = torch.autograd.grad(net(x)[:, 0].sum(), weight)
    assert_close(dw, torch.autograd.grad(by_modules(net, x)[:, 0].sum(), weight)[0])


def test_images_that_know_their_file_give_plain_shifts():
    net, x = predictor().eval(), images(requires_grad=False)
    assert_close(net(MetaTensor(x)).as_subclass(torch.Tensor), net(x))


@pytest.mark.parametrize("train", [True, False])
def test_one_pixel(train):
    net, x = predictor().train(train), images()[:1, :, :1, :1]
    if train:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            net(x)
    else:
        assert_close(net(x), by_modules(net, x))


@pytest.mark.parametrize("change", ["autocast", "bfloat16", "synchronized", "vmap", "many channels"])
def test_what_has_no_such_form_goes_by_modules(change, monkeypatch):
    monkeypatch.setattr(ShiftPredictor, "_pooled", None)
    net, x = predictor(dtype=torch.float32).eval(), images(requires_grad=False).float()
    expected = by_modules(net, x)
    if change == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(net(x), expected, rtol=0, atol=0.2)
    elif change == "bfloat16":
        assert_close(net.bfloat16()(x.bfloat16()), expected, rtol=0, atol=0.2)
    elif change == "vmap":
        assert_close(torch.func.vmap(net)(x[:, None])[:, 0], expected)
    elif change == "synchronized":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        assert_close(net(x), expected)
    else:
        net, x = predictor(16), torch.randn(2, 16, 5, 4, dtype=torch.float64)
        assert_close(net(x), by_modules(net, x))
