"""What importing the package adds to MONAI's registries."""

from __future__ import annotations

from monai.networks.layers import Conv

from .layers import CrossDConv, CrossDConvTranspose
from .networks.encoder import register_backbones

__all__ = ["register"]


def register() -> None:
    """Add ``Conv["crossd", 2 | 3]``, ``Conv["crossdtrans", 2 | 3]`` and the FlexibleUNet backbones; idempotent."""
    if "CROSSD" not in Conv.names:
        Conv.add_factory_callable("crossd", _crossd_factory, "Cross-D convolution")
        Conv.add_factory_callable("crossdtrans", _crossd_transpose_factory, "Cross-D transposed convolution")
    register_backbones()


def _crossd_factory(dim: int) -> type[CrossDConv]:
    _check_dim(dim)
    return CrossDConv


def _crossd_transpose_factory(dim: int) -> type[CrossDConvTranspose]:
    _check_dim(dim)
    return CrossDConvTranspose


def _check_dim(dim: int) -> None:
    if dim not in (2, 3):
        raise ValueError(f"`dim` must be 2 (images) or 3 (volumes) for a Cross-D convolution, got {dim}.")
