"""The Cross-D operator as functions of tensors, without state."""

from __future__ import annotations

from .conv import conv2d_per_sample, conv_transpose2d_per_sample
from .lift import LIFTS, depth_profile, knowledge_base, lifted_kernel, unlifted_kernel
from .shift import rest_kernel, rotation_to_shift, shift_operator, shifted_kernels, softmax_pool

__all__ = [
    "LIFTS",
    "conv2d_per_sample",
    "conv_transpose2d_per_sample",
    "depth_profile",
    "knowledge_base",
    "lifted_kernel",
    "rest_kernel",
    "rotation_to_shift",
    "shift_operator",
    "shifted_kernels",
    "softmax_pool",
    "unlifted_kernel",
]
