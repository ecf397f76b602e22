from __future__ import annotations

import math

import pytest
import reference
import torch
from torch.testing import assert_close

from monai_crossd.ops import rest_kernel, rotation_to_shift, shift_operator, shifted_kernels, softmax_pool

SIZES = range(1, 8)


def knowledge(size: int, c0: int = 3, c1: int = 2) -> torch.Tensor:
    return torch.randn(c0, c1, size, size, size, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_closed_form_is_the_literal_fft_form(size):
    weight, r = knowledge(size), 3 * torch.randn(5, 4, dtype=torch.float64)
    assert_close(shifted_kernels(weight, rotation_to_shift(r), size), reference.kernels(weight, r), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_gradients_are_those_of_the_literal_form(size):
    weight, r = knowledge(size).requires_grad_(), torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, q: shifted_kernels(w, rotation_to_shift(q), size), (weight, r))
    weights = torch.randn(2, 3, 2, size, size, dtype=torch.float64)
    ours = torch.autograd.grad((shifted_kernels(weight, rotation_to_shift(r), size) * weights).sum(), (weight, r))
    theirs = torch.autograd.grad((reference.kernels(weight, r) * weights).sum(), (weight, r))
    assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 1, 1), (2, -1, 0), (-3, 5, 1)])
def test_integer_shifts_roll(size, shift):
    weight = knowledge(size)
    s = torch.tensor([shift], dtype=torch.float64)
    rolled = weight.roll(shift, dims=(-3, -2, -1))[:, :, size // 2]
    assert_close(shifted_kernels(weight, s, size)[0], rolled, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5, 7])
def test_shifts_of_odd_kernels_add(size):
    """Shift all K middle slices by `a`, then by `b`: the same as shifting once by the sum."""
    weight, a, b = knowledge(size, 1, 1), *torch.randn(2, 1, 3, dtype=torch.float64)
    depth = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
    slices = [shifted_kernels(weight, a + (size // 2 - i) * depth, size)[0] for i in range(size)]
    assert_close(
        shifted_kernels(torch.stack(slices, dim=2), b, size), shifted_kernels(weight, a + b, size), rtol=0, atol=1e-11
    )


def test_shift_lies_in_the_plane_and_ball_of_the_paper():
    s = rotation_to_shift(50 * torch.randn(1000, 4, dtype=torch.float64))
    assert_close(s.sum(dim=1), torch.full((1000,), 3.0, dtype=torch.float64))
    assert ((s - 1).norm(dim=1) <= math.sqrt(3) * math.pi / 4 + 1e-12).all()


def test_no_angle_and_no_axis_rest():
    r = torch.tensor([[0.3, -2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]], requires_grad=True)
    s = rotation_to_shift(r)
    assert_close(s, torch.ones(2, 3))
    s.square().sum().backward()
    assert torch.isfinite(r.grad).all()


@pytest.mark.parametrize("size", SIZES)
def test_rest_kernel_is_the_kernel_at_the_rest_shift(size):
    weight = knowledge(size)
    at_rest = shifted_kernels(weight, torch.ones(1, 3, dtype=torch.float64), size)[0]
    assert_close(rest_kernel(weight), at_rest, rtol=0, atol=1e-12)


def test_operator_of_even_kernels_loses_energy_and_that_of_odd_ones_does_not():
    s = torch.full((1, 3), 0.5, dtype=torch.float64)
    for size, exact in ((4, False), (5, True)):
        rows = shift_operator(s, size)[0]
        assert torch.allclose(rows @ rows.T, torch.eye(size * size, dtype=torch.float64)) is exact


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_pooled_in_float32(dtype):
    f = torch.randn(2, 4, 9, 9, dtype=dtype)
    pooled = softmax_pool(f)
    assert pooled.dtype == torch.float32
    assert_close(
        pooled.double(), (f.double().flatten(2) * f.double().flatten(2).softmax(-1)).sum(-1), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_kernels_come_in_the_precision_of_the_weight(size, dtype, tolerance):
    """Relative norm of the difference to float64; the shift stays in float32."""
    weight, s = knowledge(size).to(dtype), rotation_to_shift(torch.randn(3, 4))
    kernels = shifted_kernels(weight, s, size)
    exact = shifted_kernels(weight.double(), s.double(), size)
    assert kernels.dtype == dtype
    assert (kernels - exact).norm() / exact.norm() < tolerance


def test_constant_features_pool_to_themselves():
    """Softmax weights sum to 1, also where the exponentials would overflow."""
    f = torch.tensor([-3.0, 0.0, 2.5, 200.0]).reshape(1, 4, 1, 1).expand(2, 4, 7, 5)
    assert_close(softmax_pool(f), f[:, :, 0, 0])
