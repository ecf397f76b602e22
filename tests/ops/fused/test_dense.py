"""Large images one call each, against conv2d given the same kernels in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fused import DEVICE, needs_kernels

from monai_crossd import CrossDConv
from monai_crossd.ops import shift_operator
from monai_crossd.ops.fused.conv import passes as fused_conv
from monai_crossd.ops.fused.conv.dense import convolve_each, gradients_of_each, is_dense
from monai_crossd.ops.fused.conv.mix_launch import empty_weights, mix
from monai_crossd.ops.fused.conv.operator import fused_conv2d
from monai_crossd.ops.fused.launches import replay

pytestmark = pytest.mark.usefixtures("ieee")


def transposed(k, groups):
    """Kernels as ``mixed`` makes them for a gradient."""
    batch, taps, rows, red = k.shape
    k = k.view(batch, taps, groups, rows // groups, red).transpose(3, 4)
    return k.reshape(batch, taps, groups * red, rows // groups).flip(1)


@pytest.mark.parametrize("stride, padding, dilation", [((2, 1), (1, 0), (1, 2)), ((1, 1), (1, 2), (1, 2)), (1, 3, 1)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_is_the_convolution(memory_format, groups, stride, padding, dilation):
    conv = tuple((one, one) if isinstance(one, int) else one for one in (stride, padding, dilation))
    x = torch.randn(3, 4, 9, 7, device=DEVICE).to(memory_format=memory_format)
    k = torch.randn(3, 9, 6, 4 // groups, device=DEVICE)
    kernels = k.transpose(1, 3).transpose(1, 2).reshape(3, 6, 4 // groups, 3, 3).double().requires_grad_()
    exact = x.double().requires_grad_()
    images = [F.conv2d(exact[b : b + 1], kernels[b], None, *conv, groups) for b in range(3)]
    expected = torch.cat(images)
    y = torch.full(expected.shape, float("nan"), device=DEVICE).to(memory_format=memory_format)
    convolve_each(x, k, y, *conv, groups)
    assert (y - expected).norm() < 1e-5 * expected.norm()
    dy, dx = torch.randn_like(y), torch.full_like(x, float("nan"))
    expected_dx, expected_dk = torch.autograd.grad(expected, (exact, kernels), dy.double())

    def kernels(turned):
        return transposed(k, groups) if turned else k

    dk = gradients_of_each(dy, x, kernels, dx, 3, *conv, groups)
    assert (dx - expected_dx).norm() < 1e-5 * expected_dx.norm()
    expected_dk = expected_dk.permute(0, 3, 4, 1, 2).reshape(3, 1, 9, 6, 4 // groups)
    assert (dk - expected_dk).norm() < 1e-5 * expected_dk.norm()
    assert gradients_of_each(dy, x, kernels, None, 3, *conv, groups).equal(dk)


@needs_kernels
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("c_out, red, size", [(32, 16, 3), (6, 5, 2), (4, 3, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_kernels_lie_as_the_library_takes_them(memory_format, c_out, red, size, groups):
    x = torch.empty(3, red * groups, 8, 8, device=DEVICE)
    U = torch.randn(c_out, red, size, size, size, device=DEVICE)
    M = torch.randn(3, size**2, size**3, device=DEVICE)
    k = mix(U, M, torch.float32, groups).values
    for turned, expected in ((False, k), (True, transposed(k, groups))):
        found = fused_conv.mixed(x, U, M, groups, memory_format == torch.channels_last, turned)
        weights = found.unflatten(1, (size, size)).permute(0, 3, 4, 1, 2)
        assert torch.equal(found, expected) and weights[0].is_contiguous(memory_format=memory_format)
    dk = torch.randn_like(k)
    laid_out = empty_weights(dk.shape, memory_format == torch.channels_last, dk.dtype, dk.device).copy_(dk)
    for one, other in zip(*(fused_conv.launch_unmixed(d[:, None], U, M, True) for d in (dk, laid_out)), strict=True):
        assert torch.equal(*((one[0], other[0]) if isinstance(one, list) else (one, other)))


def test_only_large_images_on_a_gpu_are_dense():
    U = torch.empty(512, 384, 3, 3, 3, device="meta")
    assert not is_dense(torch.empty(1, 384, 224, 224, device="meta"), U, 224 * 224)  # no GPU
    if DEVICE == "cuda":
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = torch.empty(1, 384, 8, 8, dtype=dtype, device=DEVICE)
            assert is_dense(x.contiguous(memory_format=torch.channels_last), U, 224 * 224)
        assert not is_dense(torch.empty(1, 384, 8, 8, device=DEVICE), U, 8 * 8)


@needs_kernels
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_layer_is_the_same_either_way(memory_format, padding_mode, monkeypatch):
    layer = CrossDConv(5, 7, 3, padding=1, padding_mode=padding_mode).to(DEVICE).eval()
    x = torch.randn(2, 5, 9, 8, device=DEVICE).to(memory_format=memory_format)
    found = []
    for chosen in ("kernels", "dense"):
        monkeypatch.setattr(fused_conv, "chosen_way", lambda *_, chosen=chosen: chosen)
        replay.forget()
        for _ in range(2):  # recorded, then repeated
            leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
            layer.zero_grad()
            y = layer(leaf)
            y.square().sum().backward()
            weight = layer.weight.detach()
            operator = shift_operator(layer.predictor(x).detach().float(), 3)
            y2 = fused_conv2d(leaf, weight.requires_grad_(), operator.requires_grad_())
            of_op = torch.autograd.grad(y2.square().sum(), (leaf, weight, operator))
            of_predictor = [p.grad.clone() for p in layer.predictor.parameters()]
            found.append([y.detach(), leaf.grad, layer.weight.grad.clone(), *of_predictor, y2.detach(), *of_op])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a.stride() == b.stride() and (a - b).norm() <= 2e-5 * b.norm()
