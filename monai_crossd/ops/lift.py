"""The lift: how a knowledge base becomes a 3D kernel, and how a 2D kernel is laid out in a knowledge base.

A new lift is a branch in each function here and a name in :data:`LIFTS`.
All are linear in the weights and keep gradients. The *rest shift*, at angle 0, is one voxel along every kernel axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .shift import rest_kernel

__all__ = ["LIFTS", "depth_profile", "knowledge_base", "lifted_kernel", "unlifted_kernel"]

#: ``published``: ``U`` itself, as in the paper. ``aligned``: ``U`` rolled by the rest shift, so that the slice which
#: images train at angle 0 is the middle of the 3D kernel. ``inflated``: that slice repeated along depth, scaled so
#: that a volume constant along depth answers as its slices do.
LIFTS = ("published", "aligned", "inflated")


def _check(lift: str) -> None:
    if lift not in ("published", "aligned", "inflated"):  # LIFTS, as TorchScript reads it
        raise ValueError(f"`lift` must be 'published', 'aligned' or 'inflated', got '{lift}'.")


def lifted_kernel(weight: Tensor, lift: str, depth_stride: int = 1) -> Tensor:
    """The 3D kernel of a knowledge base.

    Args:
        weight: knowledge base ``U`` of shape ``(C0, C1, K, K, K)``.
        lift: one of :data:`LIFTS`.
        depth_stride: stride of a transposed convolution; 1 for a convolution.

    Returns:
        ``(C0, C1, K, K, K)``.

    Raises:
        ValueError: for an unknown lift.
    """
    _check(lift)
    if lift == "aligned":
        return weight.roll((1, 1, 1), dims=(-3, -2, -1))
    if lift == "inflated":
        taps = depth_profile(weight.shape[2], lift, depth_stride).to(device=weight.device, dtype=weight.dtype)
        return rest_kernel(weight).unsqueeze(2) * taps[:, None, None]
    return weight


def depth_profile(kernel_size: int, lift: str, depth_stride: int = 1) -> Tensor:
    """Weights along depth with which a 2D kernel enters the 3D kernel.

    Each output slice of a transposed convolution with stride ``t`` meets only the taps ``d`` of one residue
    ``d mod t``; a convolution is the case ``t = 1``. In every residue the taps sum to 1, so a volume that is constant
    along depth answers as its slices do, borders aside. ``inflated`` spreads the sum evenly; the others keep the
    middle tap at 1, which the 2D network needs, and spread the other residues evenly.

    Args:
        kernel_size: ``K``.
        lift: one of :data:`LIFTS`.
        depth_stride: ``t``; where the convolution is dilated, divided by what the two have in common.

    Returns:
        ``(K,)`` float64, the middle at ``K // 2``.

    Raises:
        ValueError: for an unknown lift.
    """
    _check(lift)
    residue = torch.arange(kernel_size) % depth_stride
    members = residue[:, None] == residue[None, :]
    taps = 1.0 / members.sum(dim=1).to(torch.float64)
    if lift != "inflated":
        middle = kernel_size // 2
        taps = torch.where(members[middle], torch.zeros_like(taps), taps)
        taps[middle] = 1.0
    return taps


def knowledge_base(kernel: Tensor, lift: str, depth_stride: int = 1) -> Tensor:
    """Lay a trained 2D kernel out in a knowledge base whose 2D kernel at angle 0 is exactly it.

    What the other depth slices hold follows the lift: for ``inflated`` every slice holds the kernel, for the others
    they are zero, or what a transposed convolution needs to leave no empty output slice.

    Args:
        kernel: ``(C0, C1, K, K)``.
        lift: one of :data:`LIFTS`.
        depth_stride: stride of a transposed convolution; 1 for a convolution.

    Returns:
        ``U`` of shape ``(C0, C1, K, K, K)``.

    Raises:
        ValueError: for an unknown lift.
    """
    _check(lift)
    size = kernel.shape[-1]
    taps = torch.ones(size) if lift == "inflated" else depth_profile(size, lift, depth_stride)
    aligned = kernel.unsqueeze(2) * taps.to(device=kernel.device, dtype=kernel.dtype)[:, None, None]
    return aligned.roll((-1, -1, -1), dims=(-3, -2, -1))


def unlifted_kernel(kernel: Tensor, lift: str, depth_stride: int = 1) -> Tensor:
    """The knowledge base that the lift turns into a given 3D kernel, if there is one.

    Args:
        kernel: ``(C0, C1, K, K, K)``; for ``inflated`` only one that is constant along depth has a knowledge base.
        lift: one of :data:`LIFTS`.
        depth_stride: stride of a transposed convolution; 1 for a convolution.

    Returns:
        ``U`` of shape ``(C0, C1, K, K, K)``; its lifted kernel is the closest to ``kernel`` at the middle depth.

    Raises:
        ValueError: for an unknown lift.
    """
    _check(lift)
    if lift == "aligned":
        return kernel.roll((-1, -1, -1), dims=(-3, -2, -1))
    if lift == "inflated":
        middle = kernel.shape[2] // 2
        share = float(depth_profile(kernel.shape[2], lift, depth_stride)[middle])
        return knowledge_base(kernel[:, :, middle] / share, lift, depth_stride)
    return kernel
