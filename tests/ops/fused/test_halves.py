"""float32 as scaled float16, and convolutions that multiply it, against float64.

Without a GPU, in Triton's interpreter:  TRITON_INTERPRET=1 pytest tests/ops/fused/test_halves.py
"""

from __future__ import annotations

import pytest
import torch
from fused import DEVICE, needs_kernels
from mixed_columns import by_columns
from torch.nn import functional as F
from torch.testing import assert_close

from monai_crossd import CrossDConv
from monai_crossd.ops import rotation_to_shift, shift_operator
from monai_crossd.ops.fused.columns import passes as columns
from monai_crossd.ops.fused.conv import passes as fused_conv
from monai_crossd.ops.fused.conv.mix_launch import mix
from monai_crossd.ops.fused.conv.operator import fused_conv2d
from monai_crossd.ops.fused.images.halves import BOUNDS, halved, is_halved, largest, measured
from monai_crossd.ops.fused.launches import replay

pytestmark = [
    pytest.mark.usefixtures("nothing_recorded"),
    needs_kernels,
]


@pytest.fixture(autouse=True)
def tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


def as_halves(x):
    return halved(x, largest(x) if is_halved(x.dtype) else None)


def exact(scaled):
    return scaled.values.double() * scaled.factor.double()[:, None, None, None]


def test_only_float32_that_may_be_rounded_is_halved(monkeypatch):
    x = torch.randn(1, 2, 3, 3, device=DEVICE)
    assert is_halved(x.dtype) and as_halves(x).values.dtype == torch.float16
    for other in (x.half(), x.bfloat16()):
        assert as_halves(other).values is other and as_halves(other).factor is None
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not is_halved(x.dtype) and as_halves(x).values is x


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1.0, 65504.0, 1e30, 3e38])
def test_rounds_to_11_bits_whatever_the_size(size):
    x = torch.rand(2, 5, 9, 7, device=DEVICE) * 2 - 1
    x *= size
    x[1] *= 2.0**-60 if size > 1 else 1.0  # every image by itself
    found = as_halves(x)
    assert found.values.is_contiguous(memory_format=torch.channels_last)
    assert torch.all(found.factor.log2() == found.factor.log2().round())
    assert torch.all((exact(found) - x).abs() <= 2.0**-11 * x.abs() + 2.0**-38 * x.abs().amax((1, 2, 3), keepdim=True))
    largest = found.values.abs().amax((1, 2, 3))
    assert torch.all(largest <= 2**15) and (size == 1e-37 or torch.all(largest >= 2**14))


@pytest.mark.parametrize("channels, height, width", [(1, 1, 1), (3, 70, 71), (17, 1, 5), (4, 5, 1)])
def test_takes_images_of_any_strides(channels, height, width):
    wide = torch.randn(2, 2 * channels, height, width + 1, device=DEVICE)
    for x in (
        wide[:, ::2, :, 1:], wide[:, :channels, :, :width].contiguous(),
        wide.contiguous(memory_format=torch.channels_last)[:, :channels, :, 1:],
        wide[:, :channels, :, :width].contiguous(memory_format=torch.channels_last),
        wide[:1, :channels].expand(3, -1, -1, -1),
    ):  # fmt: skip
        assert_close(exact(as_halves(x)), x.double(), rtol=2.0**-11, atol=1e-9)


def test_what_is_not_finite_leaves_the_rest_alone():
    x = torch.randn(2, 3, 4, 4, device=DEVICE)
    x[0, 0, 0, 0], x[0, 1, 1, 1], x[0, 2, 2, 2] = torch.inf, -torch.inf, torch.nan
    found = exact(as_halves(x))
    assert_close(found, x.double(), rtol=2.0**-11, atol=1e-9, equal_nan=True)
    zeros = torch.zeros(2, 3, 4, 4, device=DEVICE)
    assert_close(exact(as_halves(zeros)), zeros.double())


def test_kernels_stay_in_range():
    U, M = torch.randn(6, 4, 3, 3, 3, device=DEVICE), torch.randn(3, 9, 27, device=DEVICE)
    for of_u, of_m in ((1.0, 1.0), (1e-30, 1e-3), (1e20, 1e15), (1e-6, 1e12)):
        found = measured(torch.zeros(3, 4, 5, 5, device=DEVICE), U * of_u, M * of_m).kernels
        assert found.shape == (2, BOUNDS)
        assert_close(found.amax(1), torch.stack([U.abs().amax() * of_u, (M.abs() * of_m).sum(2).amax()]))
        k = mix(U * of_u, M * of_m, torch.float32, 1, bounds=found)
        expected = (M.double() * of_m) @ (U.flatten(2).flatten(0, 1).double() * of_u).T
        expected = expected.view(k.values.shape)
        assert (k.values.double() * k.factor.double() - expected).norm() < 1e-3 * expected.norm()


def by_kernels(x, U, r, *conv):
    return fused_conv2d(x, U, shift_operator(rotation_to_shift(r), U.shape[2]), *conv)


BY = {"kernels": by_kernels, "columns": by_columns}


@pytest.mark.parametrize(
    "c_in, stride, size, way",
    [(3, 2, 7, "kernels"), (6, 1, 3, "kernels"), (20, 2, 3, "kernels"), (18, 1, 3, "columns"), (20, 2, 3, "columns")],
)
@pytest.mark.parametrize("last", [False, True])
def test_convolution_of_images_of_all_sizes(c_in, stride, size, way, last):
    """Images, kernels and gradients from 1e-18 to 1e9 side by side: each is as good as by itself."""
    scales = torch.tensor([1e-18, 1.0, 1e9], device=DEVICE)[:, None, None, None]
    x = torch.randn(3, c_in, 12, 9, device=DEVICE) * scales
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    U = torch.randn(18, c_in, size, size, size, device=DEVICE) * 1e-5
    r = torch.randn(3, 4, device=DEVICE)
    inputs = [t.detach().requires_grad_() for t in (x, U, r)]
    y = BY[way](*inputs, (stride, stride), (1, 1))
    dy = torch.randn_like(y) / scales
    grads = torch.autograd.grad(y, inputs, dy)
    leaves = [t.detach().double().requires_grad_() for t in inputs]
    expected = exactly(*leaves, stride)
    exact = (expected, *torch.autograd.grad(expected, leaves, dy.double()))
    for one, other, tolerance in zip((y, *grads), exact, (1e-3, 1e-3, 1e-3, 1e-2), strict=True):  # r: a difference
        parts = zip(one, other, strict=True) if len(one) == 3 else [(one, other)]
        for a, b in parts:
            assert (a - b).norm() < tolerance * b.norm()


def convolution_and_gradients(function, x, U, r, dy):
    leaves = [t.detach().requires_grad_() for t in (x, U, r)]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


def exactly(x, U, r, stride=1):
    size = U.shape[2]
    M = shift_operator(rotation_to_shift(r), size)
    kernels = (M @ U.flatten(2).flatten(0, 1).T).view(len(x), size, size, len(U), x.shape[1]).permute(0, 3, 4, 1, 2)
    return torch.cat([F.conv2d(x[i : i + 1], kernels[i], None, stride, 1) for i in range(len(x))])


@pytest.mark.parametrize("way", ["kernels", "columns"])
@pytest.mark.parametrize(
    "of_x, of_u, of_dy",
    [
        ((1e34, 1e34), 1e-20, (1e-16, 1e-16)), ((1e-10, 1e-10), 1e-20, (1e34, 1e34)), ((1e-17, 1e-17), 1e-14, (1, 1)),
        ((1e30, 1e-10), 1, (0, 1e-10)), ((0, 1e-10), 1, (1e30, 1e-10)), ((1, 1), 1, (0, 0)), ((1, 1), 0, (1, 1)),
    ],
)  # fmt: skip
def test_what_is_far_from_one_stays_in_range(way, of_x, of_u, of_dy):
    of_x, of_dy = (torch.tensor(one, device=DEVICE)[:, None, None, None] for one in (of_x, of_dy))
    x, U = torch.randn(2, 20, 4, 4, device=DEVICE) * of_x, torch.randn(18, 20, 3, 3, 3, device=DEVICE) * of_u
    r, dy = torch.randn(2, 4, device=DEVICE), torch.randn(2, 18, 4, 4, device=DEVICE) * of_dy
    found = convolution_and_gradients(lambda *t: BY[way](*t, (1, 1), (1, 1)), x, U, r, dy)
    expected = convolution_and_gradients(exactly, x.double(), U.double(), r.double(), dy.double())
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all() and (one.double() - other).norm() <= 2e-3 * other.norm() + 1e-36


def test_images_without_pixels_but_with_edges():
    x, U, M = torch.zeros(2, 20, 0, 3), torch.randn(4, 20, 2, 2, 2), torch.randn(2, 4, 8)
    leaves = [t.to(DEVICE).requires_grad_() for t in (x, U, M)]
    y = fused_conv2d(*leaves, (1, 1), (1, 1))
    assert y.shape == (2, 4, 1, 4) and not y.any()
    assert not any(one.any() for one in torch.autograd.grad(y.sum(), leaves))


@pytest.mark.parametrize("way", ["kernels", "columns"])
def test_parts_of_a_batch(monkeypatch, way):
    """What is held at once is cut by images too, and sums are what they are together."""
    x, U = torch.randn(5, 20, 6, 6, device=DEVICE), torch.randn(4, 20, 3, 3, 3, device=DEVICE)
    r = torch.randn(5, 4, device=DEVICE)
    found = []
    for budget in (fused_conv.BUDGET, 1):
        monkeypatch.setattr(fused_conv, "BUDGET", budget)
        monkeypatch.setattr(columns, "BUDGET", budget)
        replay.forget()
        leaves = [t.clone().requires_grad_() for t in (x, U, r)]
        y = BY[way](*leaves, (1, 1), (1, 1))
        found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() < 1e-3 * one.norm()


@pytest.mark.parametrize("edges", ["zeros", "reflect"])
@pytest.mark.parametrize("channels, way", [(2, "kernels"), (20, "kernels"), (20, "columns")])
def test_layer_recorded_and_repeated(monkeypatch, channels, way, edges):
    """Also where backward is not allowed what forward was, and the other way about."""
    monkeypatch.setattr(fused_conv, "chosen_way", lambda *_: way)
    layer = CrossDConv(channels, 18, 3, padding=1, padding_mode=edges).to(DEVICE)
    torch.nn.init.normal_(layer.predictor[3].weight)
    plain = CrossDConv(channels, 18, 3, padding=1, padding_mode=edges).to(DEVICE).double()
    for forward, backward in [(True, True), (True, True), (True, False), (False, True), (False, False), (True, True)]:
        plain.load_state_dict(layer.state_dict())
        x = torch.randn(2, channels, 7, 7, device=DEVICE)
        ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
        layer.zero_grad(), plain.zero_grad()
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", forward)
        y = layer(ours)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", backward)
        y.square().mean().backward()
        plain(theirs).square().mean().backward()
        assert (ours.grad - theirs.grad).norm() < 1e-2 * theirs.grad.norm()
        assert (layer.weight.grad - plain.weight.grad).norm() < 3e-3 * plain.weight.grad.norm()
