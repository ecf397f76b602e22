"""Cross-D Conv for MONAI: carry knowledge from 2D medical images into 3D networks."""

from __future__ import annotations

__version__ = "0.1.0"

from .layers import CrossDConv, CrossDConvTranspose

__all__ = ["CrossDConv", "CrossDConvTranspose"]
