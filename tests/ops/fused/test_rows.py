"""Convolution of images of few channels by rows: layouts, and the kernels against torch's conv2d in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fused import DEVICE, needs_kernels
from torch.testing import assert_close

from monai_crossd.ops.fused.conv import launch as conv_launch
from monai_crossd.ops.fused.conv.rows import kernels_from_rows, kernels_to_rows, rows_of, suits_rows
from monai_crossd.ops.fused.images.halves import Scaled

pytestmark = [
    pytest.mark.usefixtures("ieee", "products_of_bfloat16"),
    needs_kernels,
]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size, stride, padding", [(7, (2, 2), (3, 3)), (3, (1, 2), (0, 1)), (2, (2, 1), (1, 0))])
def test_rows_are_windows(channels, size, stride, padding):
    x = torch.randn(2, channels, 9, 11, device=DEVICE)
    images, unit = rows_of(x.transpose(2, 3), size, stride, padding)
    padded = F.pad(x.transpose(2, 3), (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(3, size, stride[1])  # (B, C, H, W_out, K)
    each = 1 << (channels - 1).bit_length()
    assert images.shape[1] % 16 == 0 and images.stride(2) % 16 == 0 and images.stride(3) % unit == 0
    assert_close(images[:, : size * each].unflatten(1, (size, each))[:, :, :channels], windows.permute(0, 4, 1, 2, 3))
    assert images.isfinite().all()


@pytest.mark.parametrize("channels, size", [(1, 7), (2, 3), (3, 3), (4, 2)])
def test_kernels_there_and_back(channels, size):
    k = torch.randn(2, size * size, 5, channels, device=DEVICE)
    rows = kernels_to_rows(k, size)
    assert rows.shape[:3] == (2, size, 5) and rows.count_nonzero() == k.count_nonzero()
    assert_close(kernels_from_rows(rows[:, None], size, channels), k, rtol=0, atol=0)
    parts = torch.stack([rows, 2 * rows], 1)
    assert_close(kernels_from_rows(parts, size, channels), 3 * k, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size, stride, padding", [(7, (2, 2), (3, 3)), (3, (1, 2), (0, 1)), (2, (2, 1), (1, 0))])
def test_convolves(channels, size, stride, padding, dtype):
    assert suits_rows(channels, (1, 1), 1)
    x = torch.randn(2, channels, 13, 18, device=DEVICE).to(dtype)
    k = torch.randn(2, size * size, 19, channels, device=DEVICE).to(dtype)
    weight = k.double().unflatten(1, (size, size)).permute(0, 3, 4, 1, 2).requires_grad_()
    expected = torch.cat([F.conv2d(x[i : i + 1].double(), weight[i], None, stride, padding) for i in range(2)])
    y = torch.full_like(expected, torch.nan, dtype=dtype)
    conv_launch.convolve(Scaled(x), Scaled(k), y, 1, stride, padding, (1, 1))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert (y - expected).norm() < tolerance * expected.norm()
    dy = torch.randn_like(expected).to(dtype)
    (dweight,) = torch.autograd.grad(expected, weight, dy.double())
    dk = conv_launch.kernel_grad(Scaled(x), Scaled(dy), size, stride, padding, (1, 1), 1).sum(1)
    expected_dk = dweight.permute(0, 3, 4, 1, 2).flatten(1, 2)
    assert dk.shape == k.shape and (dk - expected_dk).norm() < tolerance * expected_dk.norm()
