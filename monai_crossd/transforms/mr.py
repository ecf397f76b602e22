"""MR intensities, which have no unit, to a scale that volumes share."""

from __future__ import annotations

import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import NormalizeIntensity, Transform
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils import convert_to_tensor

from .mapped import Mapped

__all__ = ["MRPercentiles", "MRPercentilesd", "MRZScore", "MRZScored"]


class MRPercentiles(Transform):
    """Scale from one percentile of a volume to another to ``[0, 1]``, values outside to its ends, channel by channel.

    A channel whose two percentiles are equal, such as a constant one, becomes zeros.

    Args:
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        nonzero: count voxels other than zero only, where the background was set to zero.

    Raises:
        ValueError: unless ``0 <= lower < upper <= 100``.
    """

    def __init__(self, lower: float = 0.5, upper: float = 99.5, nonzero: bool = False) -> None:
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"`lower` and `upper` must be percentiles, the lower one first, got {lower} and {upper}.")
        self.lower, self.upper, self.nonzero = lower, upper, nonzero

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """``(C, *spatial)`` to the same shape, float32."""
        volume = convert_to_tensor(img, dtype=torch.float32, track_meta=True)
        return torch.stack([self._scaled(channel) for channel in volume]) if len(volume) > 1 else self._scaled(volume)

    def _scaled(self, channel: torch.Tensor) -> torch.Tensor:
        counted = channel[channel != 0] if self.nonzero else channel
        if counted.numel() == 0:
            return torch.zeros_like(channel)
        low, high = (float(percentile(counted, q)) for q in (self.lower, self.upper))
        return ((channel - low) / (high - low)).clamp(0, 1) if high > low else torch.zeros_like(channel)


class MRZScore(NormalizeIntensity):
    """Zero mean and unit standard deviation, channel by channel; a constant channel becomes zeros.

    Args:
        nonzero: count, and change, voxels other than zero only, where the background was set to zero.
    """

    def __init__(self, nonzero: bool = False) -> None:
        super().__init__(nonzero=nonzero, channel_wise=True)


class MRPercentilesd(Mapped):
    """Dictionary version of :class:`MRPercentiles`.

    Args:
        keys: of the volumes.
        lower: see :class:`MRPercentiles`.
        upper: see there.
        nonzero: see there.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 0.5,
        upper: float = 99.5,
        nonzero: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, MRPercentiles(lower, upper, nonzero), allow_missing_keys)


class MRZScored(Mapped):
    """Dictionary version of :class:`MRZScore`.

    Args:
        keys: of the volumes.
        nonzero: see :class:`MRZScore`.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, nonzero: bool = False, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, MRZScore(nonzero), allow_missing_keys)
