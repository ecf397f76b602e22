"""Cross-D Conv for MONAI: carry knowledge from 2D medical images into 3D networks."""

from __future__ import annotations

__version__ = "0.1.0"

from .checkpoint import LoadReport, load_checkpoint
from .convert import to_2d, to_3d, to_crossd
from .layers import CrossDConv, CrossDConvTranspose
from .networks import CrossDResNet, CrossDUNet, crossd_resnet10, crossd_resnet18, crossd_resnet34, crossd_resnet50
from .registration import register

__all__ = [
    "CrossDConv",
    "CrossDConvTranspose",
    "CrossDResNet",
    "CrossDUNet",
    "LoadReport",
    "crossd_resnet10",
    "crossd_resnet18",
    "crossd_resnet34",
    "crossd_resnet50",
    "load_checkpoint",
    "to_2d",
    "to_3d",
    "to_crossd",
]

register()
