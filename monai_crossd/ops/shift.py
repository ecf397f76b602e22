"""From an image's axis and angle to its own 2D kernel: the published Fourier rotation in closed form.

The published layer multiplies the spectrum of the knowledge base ``U`` by ``exp(-2 pi i 1^T R f)`` with
``R = I + theta K``. Since ``1^T R f = (R^T 1) . f``, that is a circular, sub-voxel translation of ``U`` by
``s = R^T 1 = 1 + theta (1 x k)``, and a translation is separable: no FFT and no complex tensor is needed.
``docs/method.md`` has the derivation.

Reference: Yavuz and Yang, "Cross-D Conv", arXiv 2411.02441v4, equations 1 to 8.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["rest_kernel", "rotation_to_shift", "shift_operator", "shifted_kernels", "softmax_pool"]


def softmax_pool(f: Tensor) -> Tensor:
    """Mean of every channel over space, weighted by the softmax of the channel itself (equation 1).

    Args:
        f: features of shape ``(B, C, H, W)``.

    Returns:
        ``(B, C)``, computed in float32 at least.
    """
    f = f.flatten(2)
    if f.dtype in (torch.float16, torch.bfloat16):
        f = f.float()
    return (f * f.softmax(dim=-1)).sum(dim=-1)


def rotation_to_shift(r: Tensor) -> Tensor:
    """Read axis and angle from the predictor's four numbers and turn them into the shift of the knowledge base.

    ``k = r[:3] / (|r[:3]| + 1e-8)``, ``theta = pi/4 tanh(r[3])`` rad, ``s = 1 + theta (1 x k)``.

    Args:
        r: ``(B, 4)``, three numbers of axis and one of angle.

    Returns:
        ``(B, 3)``, the shift in voxels along the kernel axes ``(-3, -2, -1)``; its sum is 3 and
        ``|s - 1| <= sqrt(3) pi / 4``.
    """
    axis = r[:, :3]
    axis = axis / (torch.linalg.vector_norm(axis, dim=1, keepdim=True) + 1e-8)
    angle = (math.pi / 4) * torch.tanh(r[:, 3:])
    one_cross_axis = axis.roll(1, dims=1) - axis.roll(-1, dims=1)  # (k_z - k_y, k_x - k_z, k_y - k_x)
    return 1 + angle * one_cross_axis


def _shift_matrices(s: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of ``D_s[n, m] = 1/K sum_f exp(2 pi i f (n - m - s))``, both of shape ``(..., K, K)``.

    The imaginary part comes from the Nyquist frequency alone, which ``fftfreq`` has for even ``K`` only.
    """
    n = torch.arange(kernel_size, device=s.device, dtype=s.dtype)
    delta = n[:, None] - n[None, :] - s[..., None, None]
    real = torch.ones_like(delta)
    for f in range(1, (kernel_size + 1) // 2):
        real = real + 2 * torch.cos((2 * math.pi * f / kernel_size) * delta)
    imag = torch.zeros_like(delta)
    if kernel_size % 2 == 0:
        real = real + torch.cos(math.pi * delta)
        imag = -torch.sin(math.pi * delta)
    return real / kernel_size, imag / kernel_size


def shift_operator(s: Tensor, kernel_size: int) -> Tensor:
    """The linear map that takes a knowledge base to the middle slice of its shifted self.

    ``M[(i, k), (d, j, l)] = Re(D_s0[K//2, d] D_s1[i, j] D_s2[k, l])``; for odd ``K`` the factors are real.

    Args:
        s: shifts in voxels of shape ``(B, 3)``.
        kernel_size: ``K``.

    Returns:
        ``(B, K*K, K*K*K)`` in the dtype of ``s``.
    """
    size = kernel_size
    real, imag = _shift_matrices(s, size)  # (B, 3, K, K)
    a, b, c = real[:, 0, size // 2], real[:, 1], real[:, 2]  # depth (B, K), rows (B, K, K), columns (B, K, K)
    plane = b[:, :, None, :, None] * c[:, None, :, None, :]  # (B, i, k, j, l)
    if size % 2 == 0:
        ai, bi, ci = imag[:, 0, size // 2], imag[:, 1], imag[:, 2]
        plane = plane - bi[:, :, None, :, None] * ci[:, None, :, None, :]
        plane_imag = bi[:, :, None, :, None] * c[:, None, :, None, :] + b[:, :, None, :, None] * ci[:, None, :, None, :]
        operator = a[:, None, None, :, None, None] * plane[:, :, :, None]
        operator = operator - ai[:, None, None, :, None, None] * plane_imag[:, :, :, None]
    else:
        operator = a[:, None, None, :, None, None] * plane[:, :, :, None]
    return operator.reshape(s.shape[0], size * size, size * size * size)


def shifted_kernels(weight: Tensor, s: Tensor, kernel_size: int) -> Tensor:
    """Every image's own 2D kernel: the knowledge base shifted by ``s``, its middle slice.

    Args:
        weight: knowledge base ``U`` of shape ``(C0, C1, K, K, K)``.
        s: shifts in voxels of shape ``(B, 3)``, float32 at least.
        kernel_size: ``K``, given as a number so that tracing keeps it one.

    Returns:
        ``(B, C0, C1, K, K)`` in the dtype of ``weight``.
    """
    c0, c1, size = weight.shape[0], weight.shape[1], kernel_size
    operator = shift_operator(s, size).to(weight.dtype)  # (B, K*K, K*K*K)
    kernels = torch.matmul(operator, weight.reshape(c0 * c1, size * size * size).t())  # (B, K*K, C0*C1)
    return kernels.transpose(1, 2).reshape(s.shape[0], c0, c1, size, size)


def rest_kernel(weight: Tensor) -> Tensor:
    """The 2D kernel at angle 0, where the shift is (1, 1, 1): the depth slice before the middle, rolled in plane.

    Args:
        weight: knowledge base ``U`` of shape ``(C0, C1, K, K, K)``.

    Returns:
        ``(C0, C1, K, K)``.
    """
    size = weight.shape[2]
    return weight[:, :, (size // 2 - 1) % size].roll((1, 1), dims=(-2, -1))
