"""The shift operator on Triton kernels against the plain functions in float64."""

from __future__ import annotations

import pytest
import torch
from fused import DEVICE, needs_kernels
from torch.testing import assert_close

from monai_crossd.ops import rotation_to_shift, shift_operator
from monai_crossd.ops.fused.shift.launch import write_gradient, write_operator

pytestmark = needs_kernels


class Launched(torch.autograd.Function):
    @staticmethod
    def forward(ctx, r, size):
        operator = r.new_empty((len(r), size**2, size**3))
        write_operator(r, operator, size)
        ctx.save_for_backward(r)
        ctx.size = size
        return operator

    @staticmethod
    def backward(ctx, grad):
        (r,) = ctx.saved_tensors
        dr = torch.empty_like(r)
        write_gradient(grad.contiguous()[None, :, None], r, dr, ctx.size)
        return dr, None


def results(function, r, size, weights):
    r = r.detach().requires_grad_()
    operator = function(r, size)
    (operator * weights).sum().backward()
    return operator.detach(), r.grad


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_agrees_with_float64(size):
    images = 5 if size < 7 else 2
    r = 2 * torch.randn(images, 4, device=DEVICE)
    weights = torch.randn(images, size**2, size**3, device=DEVICE)
    expected = results(lambda r, k: shift_operator(rotation_to_shift(r), k), r.double(), size, weights.double())
    for actual, exact in zip(results(Launched.apply, r, size, weights), expected, strict=True):
        assert (actual - exact).norm() <= 1e-5 * exact.norm()


def test_no_axis_and_no_angle():
    r = torch.tensor([[0.0, 0, 0, 1], [1, 2, 3, 0], [0, 0, 0, 0], [1, 2, 3, -30]], device=DEVICE)
    weights = torch.randn(4, 9, 27, device=DEVICE)
    expected = results(lambda r, k: shift_operator(rotation_to_shift(r), k), r[1:], 3, weights[1:])
    actual = results(Launched.apply, r, 3, weights)
    assert_close(actual[0][1:], expected[0], rtol=1e-5, atol=1e-5)
    assert_close(actual[1][1:], expected[1], rtol=1e-4, atol=1e-4)
    assert actual[1].isfinite().all()
