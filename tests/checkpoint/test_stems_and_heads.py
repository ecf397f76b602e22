"""First convolutions of other channels, heads of other classes."""

from __future__ import annotations

import copy

import pytest
import torch
from checkpoint_networks import MiniResNet, PublishedConv, crossd, images, trained, volumes
from torch import nn
from torch.testing import assert_close

from monai_crossd.checkpoint import KeyShapes, load_checkpoint
from monai_crossd.checkpoint.layout import LAYOUTS
from monai_crossd.layers import CrossDConv, CrossDConvTranspose
from monai_crossd.ops import rest_kernel


def rgb_net(source: str) -> nn.Module:
    if source == "crossd":
        return crossd()
    conv = {"2d": nn.Conv2d, "3d": nn.Conv3d, "published": PublishedConv}[source]
    return trained(MiniResNet(conv, nn.BatchNorm3d if source == "3d" else nn.BatchNorm2d))


@pytest.mark.parametrize("source", LAYOUTS)
def test_gray_answers_as_three_equal_channels(source):
    rgb, net = rgb_net(source), crossd(channels=1)
    report = load_checkpoint(net, rgb.state_dict())
    gray = volumes(1) if source == "3d" else images(1)
    assert_close(net(gray), rgb(gray.expand(-1, 3, *gray.shape[2:])), rtol=1e-6, atol=1e-6)
    stem = {"conv1.weight", "conv1.predictor.0.weight"} if source in ("published", "crossd") else {"conv1.weight"}
    assert stem == {row.key for row in report.reshaped if row.checkpoint[1] == 3}


@pytest.mark.parametrize("channels, order", [(2, [0, 1]), (4, [0, 1, 2, 0]), (6, [0, 1, 2, 0, 1, 2])])
@pytest.mark.parametrize("source", LAYOUTS)
def test_more_channels_repeat_the_three(source, channels, order):
    rgb, net = rgb_net(source).state_dict(), crossd("published", channels=channels)
    load_checkpoint(net, rgb)
    kernel = rgb["conv1.weights_3d" if source == "published" else "conv1.weight"]
    own = rest_kernel(net.conv1.weight) if source == "2d" else net.conv1.weight
    assert_close(own, kernel[:, order] * 3 / channels)
    if source == "crossd":
        assert_close(net.conv1.predictor[0].weight, rgb["conv1.predictor.0.weight"][:, order] * 3 / channels)


def test_stem_of_a_plain_network():
    rgb, net = (trained(MiniResNet(nn.Conv3d, nn.BatchNorm3d, channels=c)) for c in (3, 1))
    report = load_checkpoint(net, rgb.state_dict())
    x = volumes(1)
    assert_close(net(x), rgb(x.expand(-1, 3, -1, -1, -1)))
    assert report.reshaped == (KeyShapes("conv1.weight", (4, 3, 5, 5, 5), (4, 1, 5, 5, 5)),)


@pytest.mark.parametrize("source, target", [(4, 1), (1, 3)])
def test_only_three_channels_are_adapted(source, target):
    with pytest.raises(ValueError, match=rf"mismatched 'conv1.weight' \(4, {source}, 5, 5\) in the checkpoint"):
        weights = MiniResNet(nn.Conv2d, nn.BatchNorm2d, channels=source).state_dict()
        load_checkpoint(crossd(channels=target), weights)


@pytest.mark.parametrize("first", [nn.Conv2d(2, 2, 1), nn.ConvTranspose2d(3, 2, 1), CrossDConvTranspose(3, 2, 1)])
def test_only_the_first_convolution_is_adapted(first):
    net = nn.Sequential(first, CrossDConv(1, 2, 3))
    weights = net.state_dict() | {"1.weight": torch.rand(2, 3, 3, 3)}
    with pytest.raises(ValueError, match=r"mismatched '1.weight' \(2, 3, 3, 3\) in the checkpoint, \(2, 1, 3, 3, 3\)"):
        load_checkpoint(net, {key: t for key, t in weights.items() if "predictor" not in key})


def test_grouped_first_convolution_is_not_adapted():
    with pytest.raises(ValueError, match=r"mismatched 'weight' \(3, 3, 3, 3\) in the checkpoint, \(3, 1, 3, 3, 3\)"):
        load_checkpoint(CrossDConv(3, 3, 3, groups=3, bias=False), {"weight": torch.rand(3, 3, 3, 3)})


@pytest.mark.parametrize("skip", ["fc", ["fc"], ("fc.weight", "fc.bias")])
def test_skipped_head_stays(skip):
    net2d, net = trained(MiniResNet(nn.Conv2d, nn.BatchNorm2d, classes=7)), crossd(classes=2)
    before = copy.deepcopy(net.fc)
    report = load_checkpoint(net, net2d.state_dict(), skip=skip)
    assert report.skipped == ("fc.weight", "fc.bias") and report.complete
    assert_close(net.fc.weight, before.weight, rtol=0, atol=0)
    x = images()
    assert_close(net.layer1(net.bn1(net.conv1(x))), net2d.layer1(net2d.bn1(net2d.conv1(x))))


def test_skipped_head_of_the_checkpoint_alone():
    net2d, net = MiniResNet(nn.Conv2d, nn.BatchNorm2d), crossd()
    net.fc = nn.Identity()
    assert load_checkpoint(net, net2d.state_dict(), skip="fc").skipped == ("fc.weight", "fc.bias")


def test_skipped_predictor_keeps_its_angle():
    net2d, net = MiniResNet(nn.Conv2d, nn.BatchNorm2d), crossd()
    before = copy.deepcopy(net.conv1.predictor)
    load_checkpoint(net, net2d.state_dict(), skip="conv1.predictor")
    assert_close(net.conv1.predictor[3].weight, before[3].weight, rtol=0, atol=0)
    assert net.layer1[0].conv1.predictor[3].weight[3].abs().max() == 0
