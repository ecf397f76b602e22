"""Array transforms as dictionary transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["Mapped"]


class Mapped(MapTransform):
    """A dictionary transform that applies one array transform to each key."""

    def __init__(self, keys: KeysCollection, transform: Any, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform what the keys name, leave the rest."""
        found = dict(data)
        for key in self.key_iterator(found):
            found[key] = self.transform(found[key])
        return found
