"""The label map that a bundle's postprocessing hands over, and what its outputs need."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..data.volumes import PathLike, case_name

__all__ = ["LabelMap", "LabelMapOutputd", "LabelMapd"]


@dataclass(frozen=True)
class LabelMap:
    """A segmentation on its image's own grid.

    Attributes:
        case: name of its results, see :func:`monai_crossd.data.case_name`.
        file: the image it was made from.
        labels: label values with their affine, voxel indices to mm; shape ``(1, D1, D2, D3)``.
    """

    case: str
    file: str
    labels: MetaTensor

    def volumes(self, structures: Mapping[int, str]) -> dict[str, float]:
        """Measure each structure in mL: its number of voxels times the volume of a voxel."""
        voxel = self.labels.affine[:3, :3].double().det().abs().item() / 1000  # mm³ -> mL
        labels = self.labels.as_tensor()
        return {name: torch.count_nonzero(labels == value).item() * voxel for value, name in structures.items()}


class LabelMapd(MapTransform):
    """Base of the dictionary transforms that take a label map.

    Place it after ``Invertd`` and ``AsDiscreted(argmax=True)``: the label map must be a ``MetaTensor`` of shape
    ``(1, D1, D2, D3)`` on the grid of the file that its ``filename_or_obj`` names.

    Args:
        keys: the key of the label map, one.
        structures: label value to name; the values may be strings, as JSON has no other keys.
        data_root_dir: folder above the images; a case is named by its path below it, or by its file name alone.

    Raises:
        ValueError: if there are several keys, or a structure's label is no integer.
    """

    def __init__(
        self, keys: KeysCollection, structures: Mapping[int, str] | Mapping[str, str], data_root_dir: PathLike = ""
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"`keys` must name one label map, got {self.keys}; add a transform for each.")
        if not structures or not all(str(value).isdecimal() for value in structures):
            raise ValueError(f"`structures` must map label values such as 1 to names, got {dict(structures)}.")
        self.structures = {int(value): name for value, name in structures.items()}
        self.data_root_dir = data_root_dir

    def label_map(self, data: Mapping[Hashable, Any]) -> LabelMap:
        """The label map in ``data``.

        Raises:
            ValueError: if it is no ``MetaTensor`` with its file's name, or of another shape.
        """
        (key,) = self.key_iterator(dict(data))
        pred = data[key]
        file = pred.meta.get("filename_or_obj") if isinstance(pred, MetaTensor) else None
        if file is None:
            raise ValueError(f"{key!r} must be a MetaTensor that knows its file; place {self._name} after `Invertd`.")
        if pred.ndim != 4 or pred.shape[0] != 1:
            raise ValueError(
                f"{key!r} must be a label map of shape (1, D1, D2, D3), got {tuple(pred.shape)}; "
                f"place {self._name} after `AsDiscreted` with `argmax`."
            )
        return LabelMap(case_name(file, self.data_root_dir), file, pred)

    @property
    def _name(self) -> str:
        return type(self).__name__


class LabelMapOutputd(LabelMapd):
    """Base of those that write something about it and pass the data on unchanged.

    Args:
        keys: the key of the label map, one.
        output_dir: folder to write to, made when needed.
        structures: label value to name; the values may be strings, as JSON has no other keys.
        data_root_dir: folder above the images, as for ``SaveImaged``: subfolders between it and an image are kept.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: PathLike,
        structures: Mapping[int, str] | Mapping[str, str],
        data_root_dir: PathLike = "",
    ) -> None:
        super().__init__(keys, structures, data_root_dir)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write what the subclass writes."""
        self.write(self.label_map(data))
        return dict(data)

    @abstractmethod
    def write(self, label_map: LabelMap) -> None:
        """Write the output of one case."""
