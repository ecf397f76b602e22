"""Intensities to the range that a network wants: windows of Hounsfield units, and named ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import ScaleIntensityRange, Transform
from monai.utils import convert_to_tensor

from .mapped import Mapped

__all__ = [
    "HU_WINDOWS",
    "INTENSITY_RANGES",
    "HUWindow",
    "HUWindowd",
    "HUWindows",
    "HUWindowsd",
    "IntensityRange",
    "IntensityRanged",
    "Window",
    "hu_window",
]


class Window(NamedTuple):
    """A window of CT values.

    Attributes:
        center: HU.
        width: HU.
    """

    center: float
    width: float

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value, HU."""
        return self.center - self.width / 2, self.center + self.width / 2


#: Level and width as Radiopaedia's article "Windowing (CT)" lists them; "soft_tissue" is the middle of its range for
#: the head and neck (20 to 60, 350 to 400), rounded.
HU_WINDOWS: Mapping[str, Window] = {
    "lung": Window(-600, 1500),
    "mediastinum": Window(50, 350),
    "abdomen": Window(50, 400),
    "liver": Window(30, 150),
    "bone": Window(400, 1800),
    "brain": Window(40, 80),
    "soft_tissue": Window(40, 400),
}

#: Lowest and highest value. Those named by their numbers are what arXiv 2411.02441v4 declares for its datasets (Tables
#: IV and V); ultrasound is 8-bit grey; PET, in standardized uptake values, is a choice made here.
INTENSITY_RANGES: Mapping[str, tuple[float, float]] = {
    "0..255": (0, 255),
    "-1450..3879": (-1450, 3879),
    "0..22016": (0, 22016),
    "0..1": (0, 1),
    "ultrasound": (0, 255),
    "pet_suv": (0, 10),
}


def hu_window(window: str | Sequence[float]) -> Window:
    """The window that a preset names, or that center and width give.

    Args:
        window: one of :data:`HU_WINDOWS`, or center and width in HU.

    Raises:
        ValueError: for an unknown name, or for what are not a center and a positive width.
    """
    if isinstance(window, str):
        if window not in HU_WINDOWS:
            raise ValueError(f"`window` must be one of {', '.join(HU_WINDOWS)}, or center and width, got {window!r}.")
        return HU_WINDOWS[window]
    if len(window) != 2 or not (math.isfinite(window[0]) and 0 < window[1] < math.inf):
        raise ValueError(f"`window` must be a center and a positive width in HU, got {list(window)}.")
    return Window(*window)


class HUWindow(ScaleIntensityRange):
    """Scale a window of Hounsfield units to ``[0, 1]``, values outside to its ends.

    Args:
        window: one of :data:`HU_WINDOWS`, or center and width in HU.

    Raises:
        ValueError: for an unknown name, or a width that is not positive.
    """

    def __init__(self, window: str | Sequence[float]) -> None:
        super().__init__(*hu_window(window).ends, b_min=0.0, b_max=1.0, clip=True)


class HUWindows(Transform):
    """Several windows of one volume as its channels.

    Args:
        windows: one channel each, see :class:`HUWindow`.

    Raises:
        ValueError: if there is no window, or one is not known.
    """

    def __init__(self, windows: Sequence[str | Sequence[float]]) -> None:
        if isinstance(windows, str) or not windows:
            raise ValueError(f"`windows` must be a list of windows such as ['lung', [50, 350]], got {windows!r}.")
        self.windows = [HUWindow(window) for window in windows]

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """``(1, *spatial)`` in HU to ``(len(windows), *spatial)``.

        Raises:
            ValueError: if there are several channels.
        """
        if img.shape[0] != 1:
            raise ValueError(f"`img` must have one channel of HU, got shape {tuple(img.shape)}.")
        volume = convert_to_tensor(img, track_meta=True)
        return torch.cat([convert_to_tensor(window(volume), track_meta=True) for window in self.windows])


class IntensityRange(ScaleIntensityRange):
    """Scale a range of values to ``[0, 1]``, values outside to its ends.

    Args:
        name: one of :data:`INTENSITY_RANGES`, or lowest and highest value.

    Raises:
        ValueError: for an unknown name, or a range without extent.
    """

    def __init__(self, name: str | Sequence[float]) -> None:
        if isinstance(name, str) and name not in INTENSITY_RANGES:
            raise ValueError(f"`name` must be one of {', '.join(INTENSITY_RANGES)}, or two numbers, got {name!r}.")
        low, high = INTENSITY_RANGES[name] if isinstance(name, str) else name
        if not low < high:
            raise ValueError(f"`name` must be a lower and a higher number, got {low} and {high}.")
        super().__init__(low, high, b_min=0.0, b_max=1.0, clip=True)


class HUWindowd(Mapped):
    """Dictionary version of :class:`HUWindow`.

    Args:
        keys: of the volumes.
        window: see :class:`HUWindow`.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, window: str | Sequence[float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, HUWindow(window), allow_missing_keys)


class HUWindowsd(Mapped):
    """Dictionary version of :class:`HUWindows`.

    Args:
        keys: of the volumes.
        windows: see :class:`HUWindows`.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(
        self, keys: KeysCollection, windows: Sequence[str | Sequence[float]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, HUWindows(windows), allow_missing_keys)


class IntensityRanged(Mapped):
    """Dictionary version of :class:`IntensityRange`.

    Args:
        keys: of the volumes.
        name: see :class:`IntensityRange`.
        allow_missing_keys: whether a key may be missing.
    """

    def __init__(self, keys: KeysCollection, name: str | Sequence[float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, IntensityRange(name), allow_missing_keys)
