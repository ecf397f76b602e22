"""Memory format of images that come from others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["empty_images", "is_channels_last"]


def is_channels_last(x: Tensor) -> bool:
    """Whether channels lie side by side and pixels do not."""
    return x.stride(1) == 1 and x.stride(3) != 1


def empty_images(x: Tensor, shape: Sequence[int], last: bool) -> Tensor:
    """Images of another shape, channels_last or not, on the device and in the dtype of ``x``."""
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
