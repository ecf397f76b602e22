"""The slow, literal form of the paper: FFT, complex phase, middle slice, one image after the other. Tests only."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation(r: Tensor) -> tuple[Tensor, Tensor]:
    """Axis ``(B, 3)`` and angle ``(B,)`` in rad from the pooled numbers ``(B, 4)``."""
    axis = r[:, :3] / (r[:, :3].norm(dim=1, keepdim=True) + 1e-8)
    return axis, math.pi / 4 * torch.tanh(r[:, 3])


def rotated(weight: Tensor, axis: Tensor, angle: Tensor) -> Tensor:
    """Equations 2 to 8 for one image: ``weight`` ``(C0, C1, K, K, K)``, ``axis`` ``(3,)``, ``angle`` scalar."""
    x, y, z = axis
    zero = torch.zeros_like(x)
    cross = torch.stack([torch.stack([zero, -z, y]), torch.stack([z, zero, -x]), torch.stack([-y, x, zero])])
    rotation_matrix = torch.eye(3, dtype=axis.dtype) + angle * cross
    frequency = torch.fft.fftfreq(weight.shape[-1], dtype=axis.dtype)
    grid = torch.stack(torch.meshgrid(frequency, frequency, frequency, indexing="ij"))  # (3, K, K, K)
    turned = torch.einsum("ij,jabc->iabc", rotation_matrix, grid)
    phase = torch.exp(-2j * math.pi * turned.sum(dim=0))
    return torch.fft.ifftn(torch.fft.fftn(weight, dim=(-3, -2, -1)) * phase, dim=(-3, -2, -1)).real


def kernels(weight: Tensor, r: Tensor) -> Tensor:
    """Every image's kernel ``(B, C0, C1, K, K)``."""
    axis, angle = rotation(r)
    middle = weight.shape[-1] // 2
    return torch.stack([rotated(weight, k, t)[:, :, middle] for k, t in zip(axis, angle, strict=True)])


def pooled(predictor: torch.nn.Module, x: Tensor) -> Tensor:
    """Equation 1: ``(B, 4)``, from the predictor's layers one by one."""
    f = x
    for layer in predictor.children():
        f = layer(f)
    f = f.flatten(2)
    return (f * f.softmax(dim=-1)).sum(dim=-1)


def cross_d_conv2d(x: Tensor, weight: Tensor, r: Tensor, bias: Tensor | None = None, **conv) -> Tensor:
    """One ``conv2d`` call an image."""
    own = kernels(weight, r)
    return torch.cat([F.conv2d(x[i : i + 1], own[i], bias, **conv) for i in range(len(x))])


def cross_d_conv_transpose2d(x: Tensor, weight: Tensor, r: Tensor, bias: Tensor | None = None, **conv) -> Tensor:
    """One ``conv_transpose2d`` call an image; the paper has none, the kernels are made in the same way."""
    own = kernels(weight, r)
    return torch.cat([F.conv_transpose2d(x[i : i + 1], own[i], bias, **conv) for i in range(len(x))])
