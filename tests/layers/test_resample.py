from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from monai_crossd.layers import (
    CrossDAdaptiveAvgPool,
    CrossDAdaptiveMaxPool,
    CrossDAvgPool,
    CrossDMaxPool,
    CrossDUpsample,
)

PAIRS = [
    (CrossDMaxPool(3, 2, 1, ceil_mode=True), "MaxPool{}d", (3, 2, 1), {"ceil_mode": True}),
    (CrossDMaxPool(2, dilation=2), "MaxPool{}d", (2,), {"dilation": 2}),
    (CrossDAvgPool(3, 2, 1, count_include_pad=False), "AvgPool{}d", (3, 2, 1), {"count_include_pad": False}),
    (CrossDAdaptiveAvgPool(3), "AdaptiveAvgPool{}d", (3,), {}),
    (CrossDAdaptiveMaxPool(2), "AdaptiveMaxPool{}d", (2,), {}),
]


@pytest.mark.parametrize(("ours", "name", "args", "kwargs"), PAIRS, ids=lambda value: str(value))
@pytest.mark.parametrize("rank", [2, 3])
def test_pools_are_torchs_in_both_ranks(ours, name, args, kwargs, rank):
    x = torch.randn(2, 3, *(9,) * rank)
    assert_close(ours(x), getattr(nn, name.format(rank))(*args, **kwargs)(x))
    assert_close(torch.jit.script(ours)(x), ours(x))


@pytest.mark.parametrize(
    ("mode", "align"), [("nearest", None), ("nearest-exact", None), ("linear", True), ("linear", False)]
)
@pytest.mark.parametrize("factor", [2, 1.6])
@pytest.mark.parametrize("rank", [2, 3])
def test_upsample_is_torchs_in_both_ranks(mode, align, factor, rank):
    x = torch.randn(2, 3, *(5,) * rank)
    ours = CrossDUpsample(factor, mode, align)
    theirs = {2: "bilinear", 3: "trilinear"}[rank] if mode == "linear" else mode
    assert_close(ours(x), nn.Upsample(scale_factor=factor, mode=theirs, align_corners=align)(x))
    assert_close(torch.jit.script(ours)(x), ours(x))


def test_refused_mode():
    with pytest.raises(ValueError, match="`mode` must be 'nearest', 'nearest-exact' or 'linear', got 'bicubic'"):
        CrossDUpsample(2, "bicubic")


@pytest.mark.parametrize("layer", [*(pair[0] for pair in PAIRS), CrossDUpsample(2)], ids=repr)
@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 1, 4, 4, 4, 4)])
def test_other_ranks_are_refused(layer, shape):
    with pytest.raises(ValueError, match=f"input must be images .* or volumes .*, got {len(shape)} dimensions"):
        layer(torch.zeros(shape))
