"""Inferers beside MONAI's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer

__all__ = ["FlipInferer"]


class FlipInferer(Inferer):
    """Mean of the predictions for a volume and for its mirror images, as nnU-Net predicts.

    Args:
        inferer: what predicts each of them, such as ``SlidingWindowInferer``.
        spatial_axis: spatial axes to mirror, one at a time, from 0; axes that training mirrored too.

    Raises:
        ValueError: if there is no axis.

    Reference:
        Isensee et al., nnU-Net, Nature Methods 18 (2021) 203-211.
    """

    def __init__(self, inferer: Inferer, spatial_axis: int | Sequence[int]) -> None:
        super().__init__()
        self.inferer = inferer
        self.dims = [2 + axis for axis in ([spatial_axis] if isinstance(spatial_axis, int) else spatial_axis)]
        if not self.dims or min(self.dims) < 2:
            raise ValueError(f"`spatial_axis` must name spatial axes from 0, got {spatial_axis}.")

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Predict ``(B, C, *spatial)`` from ``(B, C_in, *spatial)``; predictions must be of one size with the input."""
        total = self.inferer(inputs, network, *args, **kwargs)
        for dim in self.dims:
            total = total + self.inferer(inputs.flip(dim), network, *args, **kwargs).flip(dim)
        return total / (1 + len(self.dims))
