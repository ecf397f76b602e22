from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from monai_crossd.layers import CrossDBatchNorm, CrossDDropout, CrossDInstanceNorm

SHAPES = {2: (3, 4, 6, 5), 3: (3, 4, 7, 6, 5)}
NORMS = [
    (CrossDBatchNorm(4), {2: nn.BatchNorm2d(4), 3: nn.BatchNorm3d(4)}),
    (CrossDInstanceNorm(4, affine=True), {2: nn.InstanceNorm2d(4, affine=True), 3: nn.InstanceNorm3d(4, affine=True)}),
    (
        CrossDInstanceNorm(4, affine=True, track_running_stats=True),
        {
            2: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
            3: nn.InstanceNorm3d(4, affine=True, track_running_stats=True),
        },
    ),
]


@pytest.mark.parametrize(("ours", "plain"), NORMS, ids=["batch", "instance", "instance with running statistics"])
@pytest.mark.parametrize("rank", [2, 3])
def test_norms_are_torchs_in_both_ranks(ours, plain, rank):
    torch.manual_seed(0)
    theirs, x = plain[rank], torch.randn(SHAPES[rank])
    nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    for train in (True, False):
        assert_close(ours.train(train)(x), theirs.train(train)(x))
    assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert_close(torch.jit.script(ours)(x), ours(x))


@pytest.mark.parametrize("rank", [2, 3])
def test_dropout_drops_whole_channels(rank):
    torch.manual_seed(0)
    layer, x = CrossDDropout(0.5), torch.ones(SHAPES[rank])
    y = layer(x).flatten(2)
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert (y.amin(2) == y.amax(2)).all()
    assert torch.equal(layer.eval()(x), x)
    torch.jit.script(layer)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_drops_what_torch_drops(rank, inplace):
    x = torch.randn(SHAPES[rank])
    theirs = {2: nn.Dropout2d, 3: nn.Dropout3d}[rank](0.3)
    torch.manual_seed(1)
    expected = theirs(x)
    torch.manual_seed(1)
    y = CrossDDropout(0.3, inplace)(x)
    assert_close(y, expected)
    assert (y is x) is inplace


@pytest.mark.parametrize("layer", [CrossDBatchNorm(4), CrossDInstanceNorm(4), CrossDDropout()], ids=repr)
def test_other_ranks_are_refused(layer):
    with pytest.raises(ValueError, match=r"input must be images .* or volumes .*, got 3 dimensions"):
        layer(torch.zeros(4, 6, 5))
