"""Small images by mixed columns against their kernels in float64: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from fused import DEVICE, needs_kernels
from mixed_columns import by_columns

from monai_crossd import CrossDConv
from monai_crossd.ops.fused.columns import launch as columns_launch
from monai_crossd.ops.fused.columns import passes as columns
from monai_crossd.ops.fused.columns.passes import is_small
from monai_crossd.ops.fused.conv import passes as fused_conv
from monai_crossd.ops.fused.launches import replay
from monai_crossd.ops.shift import rotation_to_shift, shift_operator

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}
pytestmark = [
    pytest.mark.usefixtures("ieee", "nothing_recorded"),
    needs_kernels,
]


def each(x, U, r, stride, padding, dilation):
    """Every image with its kernel."""
    M = shift_operator(rotation_to_shift(r), U.shape[-1])
    kernels = torch.einsum("bts,ocs->boct", M, U.flatten(2)).unflatten(3, U.shape[3:])
    return torch.cat([F.conv2d(x[b : b + 1], kernels[b], None, stride, padding, dilation) for b in range(len(x))])


def gradients(function, x, U, r, dy, *conv):
    leaves = [t.detach().requires_grad_() for t in (x, U, r)]
    y = function(*leaves, *conv)
    y.backward(dy.to(y.dtype))
    return [y, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "shape, outputs, conv",
    [
        ((3, 5, 7, 6), 9, ((1, 1), (1, 1), (1, 1))),
        ((2, 17, 8, 5), 6, ((2, 2), (1, 1), (1, 1))),
        ((2, 4, 9, 10), 5, ((3, 1), (2, 0), (1, 2))),
        ((1, 16, 5, 4), 7, ((1, 2), (2, 3), (1, 1))),
        ((3, 24, 3, 3), 8, ((1, 1), (1, 1), (1, 1))),
    ],
)
def test_is_the_convolution(monkeypatch, shape, outputs, conv, memory_format, dtype):
    for block in ("BLOCK", "BLOCK_GRAD"):
        monkeypatch.setattr(columns_launch, block, 128)  # several of an image
    x = torch.randn(shape, device=DEVICE).to(dtype, memory_format=memory_format)
    U = torch.randn(outputs, shape[1], 3, 3, 3, device=DEVICE)
    r = torch.randn(shape[0], 4, device=DEVICE)
    dy = torch.randn_like(each(x.float(), U, r, *conv))
    expected = gradients(each, x.double(), U.double(), r.double(), dy.double(), *conv)
    actual = gradients(by_columns, x, U, r, dy, *conv)
    for one, exact in zip(actual, expected, strict=True):
        assert (one.double() - exact).norm() <= TOLERANCE[dtype] * exact.norm()
    assert actual[0].is_contiguous(memory_format=memory_format)
    assert [t.dtype for t in actual] == [dtype, dtype, torch.float32, torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_a_batch_add_up(monkeypatch, dtype):
    x, r = torch.randn(5, 4, 6, 6, device=DEVICE).to(dtype), torch.randn(5, 4, device=DEVICE)
    U, dy = torch.randn(8, 4, 3, 3, 3, device=DEVICE), torch.randn(5, 8, 4, 4, device=DEVICE)
    whole = gradients(by_columns, x, U, r, dy)
    monkeypatch.setattr(columns, "BUDGET", 2 * 4 * 9 * 16)  # two images
    monkeypatch.setattr(columns_launch, "BUDGET", 4 * 9 * 16)  # one image of them
    for one, expected in zip(gradients(by_columns, x, U, r, dy), whole, strict=True):
        assert (one - expected).norm() <= TOLERANCE[dtype] * expected.norm()


@pytest.mark.parametrize("needs", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_layer_is_the_same_either_way(monkeypatch, memory_format, padding_mode, training, needs):
    conv = CrossDConv(5, 7, 3, padding=1, padding_mode=padding_mode).to(DEVICE).train(training)
    conv.weight.requires_grad_(needs[1])
    found, found_by = [], ""
    x = torch.randn(3, 5, 6, 5, device=DEVICE).to(memory_format=memory_format)
    dy = torch.randn(3, 7, 6, 5, device=DEVICE)
    for way in ("kernels", "columns", "columns"):  # recorded, then repeated
        monkeypatch.setattr(fused_conv, "chosen_way", lambda *_, way=way: way)
        if way != found_by:
            replay.forget()
        found_by = way
        layer = copy.deepcopy(conv)
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_(needs[0])
        y = layer(leaf)
        y.backward(dy)
        gradients = [leaf.grad, *(p.grad for p in layer.parameters())]
        found.append([y.detach(), *(g for g in gradients if g is not None), *layer.buffers()])
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            assert one.stride() == expected.stride()
            assert (one - expected).double().norm() <= 1e-5 * expected.double().norm() + 1e-6


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_adds_up_parts_of_a_batch(monkeypatch, dtype, padding_mode):
    monkeypatch.setattr(fused_conv, "chosen_way", lambda *_: "columns")
    conv = CrossDConv(4, 7, 3, padding=1, padding_mode=padding_mode).to(DEVICE, dtype)
    x, dy = torch.randn(6, 4, 4, 4, device=DEVICE).to(dtype), torch.randn(6, 7, 4, 4, device=DEVICE).to(dtype)
    found = []
    for budget in (columns.BUDGET, 4 * 4 * 9 * 16, 4 * 4 * 9 * 16):  # whole, parts, again
        if budget != columns.BUDGET:
            monkeypatch.setattr(columns, "BUDGET", budget)
            replay.forget()
        layer, leaf = copy.deepcopy(conv), x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(dy)
        found.append([y.detach(), leaf.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(conv)(x), y)
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            assert (one - expected).norm() <= TOLERANCE[dtype] * expected.norm() + 1e-6


def test_images_smaller_than_their_kernels_take_columns():
    U = torch.empty(512, 512, 3, 3, 3, device="meta")
    assert is_small(U, 7 * 7, 1) and not is_small(U, 14 * 14, 1)
    assert not is_small(U, 7 * 7, 2) and not is_small(U[:64], 7 * 7, 1)
    assert not is_small(U[..., :2, :2, :2], 7 * 7, 1)
    x = torch.empty(2, 512, 7, 7)
    assert fused_conv.chosen_way(x, U, (7, 7), 1, True) == "columns"
    assert fused_conv.chosen_way(x, U, (7, 7), 1) == fused_conv.chosen_way(x[:0], U, (7, 7), 1, True) == "kernels"
