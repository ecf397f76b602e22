"""Normalization and dropout that take images and volumes alike.

The statistics and parameters of these layers are per channel, so nothing but the check of the input's rank ties
torch's versions to a dimension. Parameters, buffers and their names are torch's.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["CrossDBatchNorm", "CrossDDropout", "CrossDInstanceNorm"]


def _check_rank(input: Tensor) -> None:
    if input.dim() != 4 and input.dim() != 5:
        raise ValueError(f"input must be images (B, C, H, W) or volumes (B, C, D, H, W), got {input.dim()} dimensions.")


class CrossDBatchNorm(_BatchNorm):
    """:class:`torch.nn.BatchNorm2d` for ``(B, C, H, W)``, :class:`torch.nn.BatchNorm3d` for ``(B, C, D, H, W)``."""

    def _check_input_dim(self, input: Tensor) -> None:
        _check_rank(input)


class CrossDInstanceNorm(_InstanceNorm):
    """:class:`torch.nn.InstanceNorm2d` for ``(B, C, H, W)``, ``InstanceNorm3d`` for ``(B, C, D, H, W)``."""

    def _check_input_dim(self, input: Tensor) -> None:
        _check_rank(input)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize every channel of every sample over space."""
        _check_rank(input)
        return self._apply_instance_norm(input)


class CrossDDropout(nn.Module):
    """Drops whole channels of images and volumes, as :class:`torch.nn.Dropout2d` and ``Dropout3d``.

    Args:
        p: probability of a channel to be zeroed.
        inplace: whether to write into the input.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Zero channels in training, nothing in evaluation."""
        _check_rank(input)
        if input.dim() == 4:
            return F.dropout2d(input, self.p, self.training, self.inplace)
        return F.dropout3d(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        """Arguments as torch shows them."""
        return f"p={self.p}, inplace={self.inplace}"
