"""The published layer's own numbers: outputs and all gradients, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from monai_crossd import CrossDConv

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "published_layer.npz"))
WHOLE = Path(__file__).parents[3] / "shared" / "golden" / "published_layer.npz"  # all cases, where it is at hand
if WHOLE.is_file():
    GOLDEN |= dict(np.load(WHOLE))
CASES = sorted({key.split("/")[0] for key in GOLDEN})


def tensor(case: str, name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[f"{case}/{name}"]).double()


def published(case: str) -> CrossDConv:
    c_in, c_out, size, stride, padding, groups, train = (int(value) for value in GOLDEN[f"{case}/args"])
    layer = CrossDConv(c_in, c_out, size, stride, padding, groups=groups, bias=False).double().train(bool(train))
    state = {"weight": tensor(case, "state.weights_3d")}
    if layer.predictor is not None:
        names = layer.predictor.state_dict()
        state |= {f"predictor.{name}": tensor(case, f"state.rotation_params.{name}") for name in names}
    layer.load_state_dict(state)
    return layer


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_the_published_ones(case):
    layer, x = published(case), tensor(case, "x").requires_grad_()
    y = layer(x)
    y.backward(tensor(case, "grad_y"))
    for ours, name in ((y, "y"), (x.grad, "grad_x"), (layer.weight.grad, "grad_weights_3d")):
        theirs = tensor(case, name)
        assert (ours - theirs).norm() / theirs.norm() < 1e-6, name


@pytest.mark.parametrize("case", [case for case in CASES if int(GOLDEN[f"{case}/args"][2]) > 1])
def test_the_shift_is_that_of_the_published_axis_and_angle(case):
    axis, angle = tensor(case, "axis"), tensor(case, "angle").reshape(-1, 1)
    s = 1 + angle * torch.linalg.cross(torch.ones_like(axis), axis)
    assert_close(published(case).predictor(tensor(case, "x")), s, rtol=0, atol=1e-6)
