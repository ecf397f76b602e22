"""The Cross-D operator as functions of tensors, without state."""

from __future__ import annotations

from .conv import crossd_conv2d, crossd_conv_transpose2d, runs_fused
from .lift import LIFTS, depth_profile, knowledge_base, lifted_kernel, unlifted_kernel
from .per_image import ConvArguments
from .pooled import batch_statistics, pooled_features
from .shift import rest_kernel, rotation_to_shift, shift_operator, shifted_kernels, softmax_pool

__all__ = [
    "LIFTS",
    "ConvArguments",
    "batch_statistics",
    "crossd_conv2d",
    "crossd_conv_transpose2d",
    "depth_profile",
    "knowledge_base",
    "lifted_kernel",
    "pooled_features",
    "rest_kernel",
    "rotation_to_shift",
    "runs_fused",
    "shift_operator",
    "shifted_kernels",
    "softmax_pool",
    "unlifted_kernel",
]
