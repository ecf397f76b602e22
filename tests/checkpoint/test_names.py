"""Names in checkpoints and in files, and the state that loading leaves."""

from __future__ import annotations

import os

import pytest
import torch
from checkpoint_networks import MiniResNet, crossd, images, tied_net, trained
from torch import nn
from torch.testing import assert_close

from monai_crossd.checkpoint import load_checkpoint
from monai_crossd.ops import rest_kernel


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
