from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from monai_crossd.ops import LIFTS, depth_profile, knowledge_base, lifted_kernel, rest_kernel, unlifted_kernel


def kernel_of(size: int) -> torch.Tensor:
    return torch.randn(3, 2, size, size, dtype=torch.float64)


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("depth_stride", [1, 2, 3])
def test_a_laid_out_kernel_is_the_rest_kernel_exactly(lift, size, depth_stride):
    kernel = kernel_of(size)
    assert torch.equal(rest_kernel(knowledge_base(kernel, lift, depth_stride)), kernel)


@pytest.mark.parametrize("size", range(1, 8))
def test_inflated_answers_to_volumes_constant_along_depth_as_to_their_slices(size):
    kernel, image = kernel_of(size), torch.randn(1, 2, 9, 9, dtype=torch.float64)
    volume = image.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    y = F.conv3d(volume, lifted_kernel(knowledge_base(kernel, "inflated"), "inflated"))
    assert_close(y, F.conv2d(image, kernel).unsqueeze(2).expand_as(y))


@pytest.mark.parametrize("lift", ["aligned", "inflated"])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (4, 2), (5, 2), (3, 3), (4, 3), (5, 3)])
def test_transposed_lifts_answer_to_constant_depth_as_to_slices(lift, size, stride):
    kernel, image = torch.randn(2, 3, size, size, dtype=torch.float64), torch.randn(1, 2, 5, 5, dtype=torch.float64)
    volume = image.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    y = F.conv_transpose3d(volume, lifted_kernel(knowledge_base(kernel, lift, stride), lift, stride), stride=stride)
    inner = y[:, :, size:-size]
    assert_close(inner, F.conv_transpose2d(image, kernel, stride=stride).unsqueeze(2).expand_as(inner))


@pytest.mark.parametrize("size", range(1, 8))
def test_aligned_acts_on_every_slice_as_the_2d_kernel(size):
    """The middle of the 3D kernel, at `K // 2`, is the only slice of it that is not empty."""
    kernel, volume = kernel_of(size), torch.randn(1, 2, 9, 9, 9, dtype=torch.float64)
    y = F.conv3d(volume, lifted_kernel(knowledge_base(kernel, "aligned"), "aligned"))
    slices = [F.conv2d(volume[:, :, i + size // 2], kernel) for i in range(10 - size)]
    assert_close(y, torch.stack(slices, dim=2))


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("depth_stride", [1, 2])
def test_lifts_are_linear_and_keep_gradients(lift, depth_stride):
    a, b = torch.randn(2, 1, 2, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    lifted = lifted_kernel(2 * a + b, lift, depth_stride)
    assert_close(lifted, 2 * lifted_kernel(a, lift, depth_stride) + lifted_kernel(b, lift, depth_stride))
    assert torch.autograd.gradcheck(lambda u: lifted_kernel(u, lift, depth_stride), (a,))


def test_published_is_the_knowledge_base_and_aligned_its_roll():
    weight = torch.randn(2, 2, 3, 3, 3)
    assert torch.equal(lifted_kernel(weight, "published"), weight)
    assert torch.equal(lifted_kernel(weight, "aligned"), weight.roll((1, 1, 1), dims=(2, 3, 4)))


@pytest.mark.parametrize("lift", ["published", "aligned"])
def test_unlifting_undoes_lifting(lift):
    weight = torch.randn(2, 2, 4, 4, 4)
    assert torch.equal(unlifted_kernel(lifted_kernel(weight, lift), lift), weight)


@pytest.mark.parametrize("depth_stride", [1, 2])
def test_unlifting_inflated_gives_a_base_of_the_same_kernel(depth_stride):
    kernel = lifted_kernel(torch.randn(2, 2, 3, 3, 3, dtype=torch.float64), "inflated", depth_stride)
    again = lifted_kernel(unlifted_kernel(kernel, "inflated", depth_stride), "inflated", depth_stride)
    assert_close(again, kernel)


def test_depth_profile_keeps_the_middle_of_aligned_kernels():
    assert_close(depth_profile(3, "aligned", 2), torch.tensor([0.5, 1, 0.5], dtype=torch.float64))
    assert_close(depth_profile(2, "inflated", 2), torch.ones(2, dtype=torch.float64))


UNKNOWN = {
    "lifted_kernel": lambda: lifted_kernel(torch.zeros(1, 1, 3, 3, 3), "up"),
    "unlifted_kernel": lambda: unlifted_kernel(torch.zeros(1, 1, 3, 3, 3), "up"),
    "knowledge_base": lambda: knowledge_base(torch.zeros(1, 1, 3, 3), "up"),
    "depth_profile": lambda: depth_profile(3, "up"),
}


@pytest.mark.parametrize("function", UNKNOWN)
def test_unknown_lift(function):
    with pytest.raises(ValueError, match="`lift` must be 'published', 'aligned' or 'inflated', got 'up'"):
        UNKNOWN[function]()
