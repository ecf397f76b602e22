"""Layouts of checkpoints: the oracle is the output of the network that the weights come from."""

from __future__ import annotations

import pytest
import torch
from checkpoint_networks import MiniResNet, PublishedConv, crossd, images, trained, volumes
from monai.networks.nets import BasicUNet, UNet
from torch import nn
from torch.testing import assert_close

from monai_crossd.checkpoint import KeyShapes, load_checkpoint
from monai_crossd.convert import to_3d, to_crossd
from monai_crossd.layers import CrossDConv, CrossDConvTranspose
from monai_crossd.networks import crossd_resnet18
from monai_crossd.ops import LIFTS


@pytest.mark.parametrize("source", ["auto", "2d"])
@pytest.mark.parametrize("lift", LIFTS)
def test_2d_weights_give_the_2d_output(lift, source):
    net2d, net = trained(MiniResNet(nn.Conv2d, nn.BatchNorm2d)), crossd(lift)
    report = load_checkpoint(net, net2d.state_dict(), source=source)
    x = images()
    assert_close(net(x), net2d(x))
    assert report.source == "2d"
    assert KeyShapes("conv1.weight", (4, 3, 5, 5), (4, 3, 5, 5, 5)) in report.reshaped
    assert {name.split(".predictor.")[0] for name in report.kept} == {"conv1", "layer1.0.conv1", "layer1.0.conv2"}
    assert len(report.reshaped) == 4 and "fc.weight" in report.loaded


@pytest.mark.parametrize("lift", ["published", "aligned"])
def test_3d_weights_give_the_3d_output(lift):
    net3d, net = trained(MiniResNet(nn.Conv3d, nn.BatchNorm3d)), crossd(lift)
    report = load_checkpoint(net, net3d.state_dict())
    x = volumes()
    assert_close(net(x), net3d(x))
    assert report.source == "3d" and report.complete and not report.reshaped


def test_inflated_lift_takes_3d_weights_that_are_constant_along_depth():
    net, other = crossd("inflated"), crossd("inflated")
    plain = to_3d(other)
    load_checkpoint(net, plain.state_dict())
    x = volumes()
    assert_close(net(x), plain(x))


@pytest.mark.parametrize("lift", LIFTS)
def test_published_weights_give_the_published_output(lift):
    published, net = trained(MiniResNet(PublishedConv, nn.BatchNorm2d)), crossd(lift)
    report = load_checkpoint(net, published.state_dict())
    x = images()
    assert_close(net(x), published(x), rtol=1e-6, atol=1e-6)
    assert report.source == "published" and report.complete and not report.kept
    pointwise = "layer1.0.downsample.0.rotation_params."
    assert set(report.dropped) == {key for key in published.state_dict() if key.startswith(pointwise)}


@pytest.mark.parametrize("source", ["auto", "crossd"])
def test_own_layout_gives_the_same_output(source):
    one, other = crossd(), crossd()
    report = load_checkpoint(other, one.state_dict(), source=source)
    x, v = images(), volumes()
    assert_close(other(x), one(x))
    assert_close(other(v), one(v))
    assert report.source == "crossd" and set(report.loaded) == set(one.state_dict())


def test_layouts_are_told_for_every_convolution():
    net, net2d, other = crossd(), trained(MiniResNet(nn.Conv2d, nn.BatchNorm2d)), crossd()
    mixed = {key: t for key, t in other.state_dict().items() if not key.startswith("conv1.")}
    report = load_checkpoint(net, mixed | {"conv1.weight": net2d.conv1.weight})
    assert report.source == "2d+crossd"
    x = images()
    assert_close(net.conv1(x), net2d.conv1(x))
    assert_close(net.layer1(net.conv1(x)), other.layer1(net.conv1(x)))


@pytest.mark.parametrize("name", ["conv", "transposed"])
@pytest.mark.parametrize("layout", ["2d", "3d"])
def test_single_layers_of_every_kind(name, layout):
    conv, make, own = {
        "conv": (nn.Conv2d if layout == "2d" else nn.Conv3d, CrossDConv, {"groups": 2}),
        "transposed": (
            nn.ConvTranspose2d if layout == "2d" else nn.ConvTranspose3d,
            CrossDConvTranspose,
            {"stride": 2},
        ),
    }[name]
    plain, layer = conv(4, 6, 4, **own).double(), make(4, 6, 4, lift="aligned", **own).double().eval()
    load_checkpoint(layer, plain.state_dict())
    x = images(4) if layout == "2d" else volumes(4)
    assert_close(layer(x), plain(x))


def test_inflated_transposed_layer_takes_its_own_3d_kernel():
    one, other = (CrossDConvTranspose(3, 4, 4, stride=2, lift="inflated").double() for _ in range(2))
    load_checkpoint(other, {"weight": one.kernel_3d().detach(), "bias": one.bias})
    assert_close(other.kernel_3d(), one.kernel_3d())


@pytest.mark.parametrize("dims", [2, 3])
def test_monai_state_dicts(dims):
    options = {"in_channels": 1, "out_channels": 2, "channels": (4, 8, 8), "strides": (2, 2), "num_res_units": 1}
    plain = trained(UNet(spatial_dims=dims, **options))
    net = to_crossd(UNet(spatial_dims=2, **options), lift="aligned").double().eval()
    load_checkpoint(net, {"model": plain.state_dict()}, source=f"{dims}d")
    x = torch.randn(2, 1, *(16,) * dims, dtype=torch.float64)
    assert_close(net(x), plain(x))


def test_plain_network_takes_its_own_layout():
    options = {"spatial_dims": 3, "features": (4,) * 6}
    one, other = BasicUNet(**options), BasicUNet(**options)
    report = load_checkpoint(one, other.state_dict())
    assert report.source == "plain" and set(report.loaded) == set(one.state_dict())
    for key, tensor in one.state_dict().items():
        assert_close(tensor, other.state_dict()[key])


def test_torchvision_resnet18_has_our_names():
    net = crossd_resnet18(in_channels=1, num_classes=2)
    own = {key: t for key, t in net.state_dict().items() if ".predictor." not in key}
    weights = {key: t[:, :, 0] if t.dim() == 5 else t for key, t in own.items()}
    weights["conv1.weight"] = torch.rand(64, 3, 7, 7)
    weights |= {"fc.weight": torch.rand(1000, 512), "fc.bias": torch.rand(1000)}
    report = load_checkpoint(net, weights, skip="fc")
    assert len(weights) == 122 and report.skipped == ("fc.weight", "fc.bias")
    assert len(report.loaded) + len(report.reshaped) == 120
