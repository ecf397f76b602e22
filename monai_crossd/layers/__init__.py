"""Modules that take images ``(B, C, H, W)`` and volumes ``(B, C, D, H, W)``."""

from __future__ import annotations

from .conv import CrossDConv
from .norm import CrossDBatchNorm, CrossDDropout, CrossDInstanceNorm
from .predictor import ShiftPredictor
from .resample import CrossDAdaptiveAvgPool, CrossDAdaptiveMaxPool, CrossDAvgPool, CrossDMaxPool, CrossDUpsample
from .transposed import CrossDConvTranspose

__all__ = [
    "CrossDAdaptiveAvgPool",
    "CrossDAdaptiveMaxPool",
    "CrossDAvgPool",
    "CrossDBatchNorm",
    "CrossDConv",
    "CrossDConvTranspose",
    "CrossDDropout",
    "CrossDInstanceNorm",
    "CrossDMaxPool",
    "CrossDUpsample",
    "ShiftPredictor",
]
