"""Checkpoints that are refused, each with its sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_networks import MiniResNet, PublishedConv, crossd, tied_net
from torch import nn

from monai_crossd.checkpoint import load_checkpoint


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
