from __future__ import annotations

import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer

from monai_crossd.inferers import FlipInferer


@pytest.mark.parametrize("spatial_axis", [0, [0, 2]])
def test_the_mean_over_mirror_images(spatial_axis):
    net = torch.nn.Conv3d(1, 2, 3, padding=1)
    x = torch.randn(2, 1, 6, 7, 8)
    axes = [spatial_axis] if isinstance(spatial_axis, int) else spatial_axis
    expected = torch.stack([net(x), *(net(x.flip(2 + axis)).flip(2 + axis) for axis in axes)]).mean(0)
    for inferer in (SimpleInferer(), SlidingWindowInferer((6, 7, 8))):
        torch.testing.assert_close(FlipInferer(inferer, spatial_axis)(x, net), expected)


@pytest.mark.parametrize("spatial_axis", [-1, []])
def test_no_axis(spatial_axis):
    with pytest.raises(ValueError, match="`spatial_axis` must name spatial axes from 0, got"):
        FlipInferer(SimpleInferer(), spatial_axis)
