"""What is loaded, what is not, and what is said of it."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from checkpoint_networks import MiniResNet, crossd
from torch import Tensor, nn
from torch.testing import assert_close

from monai_crossd.checkpoint import load_checkpoint


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
