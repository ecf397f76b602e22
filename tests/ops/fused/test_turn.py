"""Images turned to channels_last by the kernel, against torch's copy: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from fused import DEVICE, needs_kernels
from torch.testing import assert_close

pytestmark = needs_kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x.transpose(2, 3),
        lambda x: x[:, 1:, ::2, 1:-1],
        lambda x: x[:1].expand(3, -1, -1, -1),
        lambda x: x[:1, :1, :1, :1].expand(2, 70, 5, 9),
        lambda x: x[:, :3],
    ],
    ids=["contiguous", "transposed", "sliced", "expanded", "one value", "few channels"],
)
def test_is_the_copy(view, dtype):
    from monai_crossd.ops.fused.images.turn import channels_last

    x = view(torch.randn(2, 70, 13, 9, device=DEVICE).to(dtype))
    turned = channels_last(x)
    assert turned.is_contiguous(memory_format=torch.channels_last)
    assert_close(turned, x, rtol=0, atol=0)


def test_leaves_what_is_so_already_and_nothing_at_all():
    from monai_crossd.ops.fused.images.turn import channels_last

    x = torch.randn(2, 3, 4, 5, device=DEVICE).to(memory_format=torch.channels_last)
    assert channels_last(x) is x
    assert channels_last(x.contiguous()[:0]).shape == (0, 3, 4, 5)
