"""Networks of Cross-D layers, and their registration with MONAI."""

from __future__ import annotations

from .encoder import CrossDResNetEncoder
from .resnet import CrossDResNet, crossd_resnet10, crossd_resnet18, crossd_resnet34, crossd_resnet50
from .unet import CrossDUNet

__all__ = [
    "CrossDResNet",
    "CrossDResNetEncoder",
    "CrossDUNet",
    "crossd_resnet10",
    "crossd_resnet18",
    "crossd_resnet34",
    "crossd_resnet50",
]
