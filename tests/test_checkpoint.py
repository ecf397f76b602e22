"""Checkpoints: the oracle of every layout is the output of the network that the weights come from."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets import BasicUNet, UNet
from reference import cross_d_conv2d, pooled
from torch import Tensor, nn
from torch.testing import assert_close

from monai_crossd.checkpoint import KeyShapes, load_checkpoint
from monai_crossd.checkpoint.layout import LAYOUTS
from monai_crossd.convert import to_3d, to_crossd
from monai_crossd.layers import CrossDBatchNorm, CrossDConv, CrossDConvTranspose
from monai_crossd.networks import crossd_resnet18
from monai_crossd.ops import LIFTS, rest_kernel


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


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# ---------------------------------------------------------------- layouts


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


# ---------------------------------------------------------------- stems and heads


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


# ---------------------------------------------------------------- names, files, state


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_stripped(prefix):
    net2d, net = trained(MiniResNet(nn.Conv2d, nn.BatchNorm2d)), crossd()
    load_checkpoint(net, {prefix + key: t for key, t in net2d.state_dict().items()})
    x = images()
    assert_close(net(x), net2d(x))


def test_prefix_that_not_all_keys_have_is_a_name():
    state = {f"module.{key}": t for key, t in crossd().state_dict().items()}
    state["fc.weight"] = state.pop("module.fc.weight")
    with pytest.raises(ValueError, match=r"unexpected 'module.conv1.weight'"):
        load_checkpoint(crossd(), state)


def test_network_in_a_wrapper():
    net2d, net = trained(MiniResNet(nn.Conv2d, nn.BatchNorm2d)), crossd()
    load_checkpoint(nn.DataParallel(net), net2d.state_dict())
    x = images()
    assert_close(net(x), net2d(x))


def test_network_whose_own_names_start_with_module():
    one, other = (nn.ModuleDict({"module": nn.Linear(2, 2)}) for _ in range(2))
    assert load_checkpoint(one, other.state_dict()).loaded == ("module.weight", "module.bias")


@pytest.mark.parametrize("names", [("model",), ("state_dict",), ("network", "state_dict"), ("net",), ("ema",)])
def test_files_and_the_names_in_them(tmp_path, names):
    net2d, net = trained(MiniResNet(nn.Conv2d, nn.BatchNorm2d)), crossd()
    content = net2d.state_dict()
    for name in reversed(names):
        content = {name: content, "epoch": 3}
    torch.save(content, tmp_path / "model.pt")
    load_checkpoint(net, os.fspath(tmp_path / "model.pt"))
    x = images()
    assert_close(net(x), net2d(x))


def test_dtype_requires_grad_and_mode_stay_the_networks():
    weights = MiniResNet(nn.Conv2d, nn.BatchNorm2d).half().state_dict()
    net = crossd(channels=1).float().train()
    net.conv1.weight.requires_grad_(False)
    parameters = dict(net.named_parameters())
    load_checkpoint(net, weights)
    assert all(parameters[name] is p and p.dtype == torch.float32 for name, p in net.named_parameters())
    assert net.training and not net.conv1.weight.requires_grad and net.fc.weight.requires_grad
    assert_close(net.fc.weight, weights["fc.weight"].float(), rtol=0, atol=0)
    stem = weights["conv1.weight"].float().sum(dim=1, keepdim=True)  # not rounded to half in between
    assert_close(rest_kernel(net.conv1.weight.detach()), stem, rtol=0, atol=0)


def test_counters_may_be_absent():
    net = crossd()
    state = {key: t for key, t in crossd().state_dict().items() if not key.endswith("num_batches_tracked")}
    report = load_checkpoint(net, state)
    assert "bn1.num_batches_tracked" in report.kept and report.complete
    assert net.bn1.num_batches_tracked == 7


def tied_net() -> nn.Module:
    net = nn.ModuleDict({"a": CrossDConv(2, 2, 3), "c": nn.Linear(2, 2), "d": nn.Linear(2, 2)})
    net["b"] = net["a"]
    net["d"].weight = net["c"].weight
    return net


@pytest.mark.parametrize("absent", ["a.", "b.", "nothing"])
def test_tied_tensors_need_one_of_their_names(absent):
    plain = nn.Conv2d(2, 2, 3)
    state = {f"{name}.{key}": t for name in "ab" for key, t in plain.state_dict().items()}
    state |= {"c.weight": torch.rand(2, 2), "c.bias": torch.rand(2), "d.bias": torch.rand(2)}
    net = tied_net()
    report = load_checkpoint(net, {key: t for key, t in state.items() if not key.startswith(absent)})
    x = torch.randn(2, 2, 5, 5)
    assert_close(net["b"](x), plain(x))
    assert net["a"] is net["b"] and net["d"].weight is net["c"].weight
    assert_close(net["d"].weight, state["c.weight"])
    assert "d.weight" in report.loaded and report.complete


def test_tied_tensors_with_two_values_are_refused():
    state = tied_net().state_dict()
    state["d.weight"] = torch.rand(2, 2)
    with pytest.raises(ValueError, match=r"'c.weight' and 'd.weight' are one tensor in the network, but differ"):
        load_checkpoint(tied_net(), state)
    report = load_checkpoint(tied_net(), state, skip="d.weight")
    assert "d.weight" in report.loaded and not report.skipped  # one tensor: it came under its other name
    state["d.weight"] = torch.rand(3, 3)
    assert "d.weight" not in load_checkpoint(tied_net(), state, strict=False).loaded


# ---------------------------------------------------------------- strictness and the report


def broken_state() -> dict[str, Tensor]:
    state = MiniResNet(nn.Conv2d, nn.BatchNorm2d).state_dict()
    del state["bn1.weight"]
    state["extra"] = torch.rand(1)
    state["layer1.0.conv1.weight"] = torch.rand(6, 4, 5, 5)
    state["fc.bias"] = torch.rand(9)
    return state


def test_strict_names_all_keys_and_writes_nothing(tmp_path):
    torch.save(broken_state(), tmp_path / "broken.pt")
    net = crossd()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="does not fit the network") as error:
        load_checkpoint(net, tmp_path / "broken.pt")
    assert str(error.value) == (
        f"checkpoint '{tmp_path / 'broken.pt'}' does not fit the network: missing 'bn1.weight'; unexpected 'extra'; "
        "mismatched 'layer1.0.conv1.weight' (6, 4, 5, 5) in the checkpoint, (6, 4, 3, 3, 3) in the network, "
        "'fc.bias' (9,) in the checkpoint, (5,) in the network; "
        "name what is to stay in `skip`, or pass `strict=False` to load what fits."
    )
    for key, tensor in net.state_dict().items():
        assert_close(tensor, before[key], rtol=0, atol=0)


def test_not_strict_loads_what_fits_and_reports_the_rest(caplog):
    net, state = crossd(), broken_state()
    angles = net.layer1[0].conv1.predictor[3].weight.clone()
    with caplog.at_level(logging.WARNING, logger="monai_crossd"):
        report = load_checkpoint(net, state, strict=False)
    assert report.missing == ("bn1.weight",) and report.unexpected == ("extra",)
    assert [row.key for row in report.mismatched] == ["layer1.0.conv1.weight", "fc.bias"]
    assert_close(net.fc.weight, state["fc.weight"].double())
    assert_close(net.layer1[0].conv1.predictor[3].weight, angles, rtol=0, atol=0)  # its kernel did not come
    assert "fc.bias (9,) -> (5,)" in caplog.text


def test_every_key_is_reported_once():
    net, state = crossd(), broken_state()
    report = load_checkpoint(net, state, strict=False, skip="conv1")
    rows = [report.loaded, report.kept, report.skipped, report.missing, report.unexpected, report.dropped]
    names = [name for row in rows for name in row] + [row.key for row in report.reshaped + report.mismatched]
    assert sorted(names) == sorted({*net.state_dict(), *state})


def test_unexpected_names_are_the_checkpoints():
    state = {"conv1.weight": torch.rand(4, 3, 5, 5, 5), "conv1.weights_3d": torch.rand(4, 3, 5, 5, 5)}
    report = load_checkpoint(crossd(), state, strict=False)
    assert report.unexpected == ("conv1.weights_3d",)


def test_report_prints_and_goes_to_json():
    report = load_checkpoint(crossd(channels=1), MiniResNet(nn.Conv2d, nn.BatchNorm2d).state_dict())
    lines = str(report).splitlines()
    assert lines[0].split() == ["source", "2d"]
    assert lines[2].startswith("reshaped       4  conv1.weight (4, 3, 5, 5) -> (4, 1, 5, 5, 5), layer1.0.conv1.weight")
    assert lines[2].endswith(", and 1 more") and not any(line.startswith("missing") for line in lines)
    content = json.loads(json.dumps(report.as_dict()))
    assert content["reshaped"][0] == {"key": "conv1.weight", "checkpoint": [4, 3, 5, 5], "network": [4, 1, 5, 5, 5]}
    assert content["missing"] == [] and content["source"] == "2d"


# ---------------------------------------------------------------- errors


def test_unknown_source():
    with pytest.raises(ValueError, match="`source` must be 'auto', 'published', '2d', '3d', 'crossd', got 'acs'"):
        load_checkpoint(crossd(), {}, source="acs")


@pytest.mark.parametrize("source", ["published", "3d", "crossd"])
def test_contradicted_source(source):
    weights = MiniResNet(nn.Conv2d, nn.BatchNorm2d).state_dict()
    with pytest.raises(
        ValueError, match=f"`source` is '{source}', but 'conv1.weight' of the checkpoint has layout '2d'"
    ):
        load_checkpoint(crossd(), weights, source=source)


def test_published_key_in_a_contradicted_source():
    weights = MiniResNet(PublishedConv, nn.BatchNorm2d).state_dict()
    with pytest.raises(ValueError, match=r"'conv1.weights_3d' of the checkpoint has layout 'published'; pass `source="):
        load_checkpoint(crossd(), weights, source="crossd")


def test_own_layout_without_predictors_is_incomplete_on_request():
    weights = MiniResNet(nn.Conv3d, nn.BatchNorm3d).state_dict()
    with pytest.raises(ValueError, match=r"missing 'conv1.predictor.0.weight'"):
        load_checkpoint(crossd(), weights, source="crossd")


def test_weights_that_are_not_numbers_still_load():
    state = tied_net().state_dict()
    state["a.weight"].fill_(torch.nan)
    assert load_checkpoint(tied_net(), {key: t for key, t in state.items() if key[0] != "b"}).complete
    weights = MiniResNet(nn.Conv3d, nn.BatchNorm3d).state_dict()
    weights["conv1.weight"].fill_(torch.nan)
    assert load_checkpoint(crossd(), weights).complete


def test_3d_kernels_that_inflation_cannot_give():
    weights = MiniResNet(nn.Conv3d, nn.BatchNorm3d).state_dict()
    message = r"3D kernels 'conv1.weight' \(lift='inflated'\), 'layer1.0.conv1.weight' .*with lift='aligned'"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(crossd("inflated"), weights, strict=False)


@pytest.mark.parametrize("skip", ["head", "f", ["fc", "layer1.0.conv"]])
def test_skip_that_names_nothing(skip):
    with pytest.raises(ValueError, match=r"`skip` names '(head|f|layer1.0.conv)', which is no module or key"):
        load_checkpoint(crossd(), crossd().state_dict(), skip=skip)


def test_neither_path_nor_mapping():
    with pytest.raises(TypeError, match="`path_or_state_dict` must be a path or a mapping, got list"):
        load_checkpoint(crossd(), [1, 2])


@pytest.mark.parametrize("name", ["none.pt", "."])
def test_missing_file(tmp_path, name):
    with pytest.raises(ValueError, match=r"checkpoint '.*' is not a file; check the path"):
        load_checkpoint(crossd(), tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"truncated"])
def test_damaged_file(tmp_path, content):
    path = tmp_path / "model.pt"
    if content == b"truncated":
        torch.save({"weight": torch.zeros(1000)}, path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint '.*model.pt' cannot be read \(\w+\), it is damaged"):
        load_checkpoint(crossd(), path)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_file_that_would_run_code_is_refused(tmp_path, zipped):
    content = {"model": Malicious(tmp_path / "touched")}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"checkpoint '.*model.pt' holds more than tensors .* pass the state dict"):
        load_checkpoint(crossd(), tmp_path / "model.pt")
    assert not (tmp_path / "touched").exists()


def test_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore:.*TorchScript.*", "ignore:.*torch.jit.*")
def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)), tmp_path / "model.ts")
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "model.ts")


def test_file_without_a_mapping(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"'.*model.pt' holds a list, no mapping of names to tensors"):
        load_checkpoint(crossd(), tmp_path / "model.pt")


@pytest.mark.parametrize(
    "content, entry", [({"epoch": 3, "weights": {}}, "'epoch' of type int"), ({0: torch.rand(2)}, "0 of type Tensor")]
)
def test_entry_that_is_no_named_tensor(content, entry):
    with pytest.raises(ValueError, match=f"the state dict must map names to tensors, but has an entry {entry}"):
        load_checkpoint(crossd(), content)


def test_several_networks_in_one_checkpoint():
    state = crossd().state_dict()
    with pytest.raises(ValueError, match="holds several networks, 'model', 'ema'; load it yourself"):
        load_checkpoint(crossd(), {"model": state, "ema": state})
