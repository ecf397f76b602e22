"""Probabilities of classes, as tables that grow with the cases."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..data.volumes import PathLike, VolumeError, case_name
from .table import replace_tables

__all__ = ["SaveClassificationd"]

#: how far a sum of probabilities may lie from one; half precision needs it
_TOLERANCE = 0.01


class SaveClassificationd(MapTransform):
    """Write the probability of each class to ``classification.csv`` and ``classification.json``.

    Place it after ``Activationsd(softmax=True)``: the input is the probabilities of classes that exclude each other,
    not logits. Both files are replaced as a whole after every case, so they are complete and readable at any time of a
    run, and hold the cases of this transform's life only. A row has the case, the SeriesInstanceUID where the image was
    a DICOM series, a probability per class, the predicted class, which is the most probable one, and the model's name
    and version; the JSON also the path of the image. The data are passed on unchanged.

    Args:
        keys: the key of the probabilities, one; shape ``(num_classes,)``, or with axes of length 1 behind.
        output_dir: folder to write to, made when needed.
        class_names: name of each class, in the order of the probabilities.
        model_name: name of the model.
        model_version: its version.
        image_key: key of the image that was classified; it names the case and the series.
        data_root_dir: folder above the images; a case is named by its path below it, or by its file name alone.

    Raises:
        ValueError: if there are several keys, or the class names are fewer than two or not unique.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: PathLike,
        class_names: Sequence[str],
        model_name: str,
        model_version: str,
        image_key: str = "image",
        data_root_dir: PathLike = "",
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"`keys` must name one key of probabilities, got {self.keys}; add a transform for each.")
        if isinstance(class_names, str) or len(class_names) < 2 or len(set(class_names)) < len(class_names):
            raise ValueError(f"`class_names` must be two or more different names, got {class_names!r}.")
        self.output_dir = Path(output_dir)
        self.class_names = list(class_names)
        self.model_name, self.model_version = model_name, model_version
        self.image_key = image_key
        self.data_root_dir = data_root_dir
        self._records: dict[str, dict[str, Any]] = {}  # by case: one that is run again replaces its row

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add a case and replace both files.

        Raises:
            ValueError: if the image is no ``MetaTensor`` with its file's name.
            VolumeError: if the case has another number of values than there are classes, or what it has are no
                probabilities that sum to one.
        """
        (key,) = self.key_iterator(dict(data))
        image = data.get(self.image_key)
        if not isinstance(image, MetaTensor) or "filename_or_obj" not in image.meta:
            raise ValueError(f"{self.image_key!r} must be a MetaTensor that knows its file; name it by `image_key`.")
        file = str(image.meta["filename_or_obj"])
        probabilities = dict(zip(self.class_names, self._probabilities(file, data[key]), strict=True))
        case = case_name(file, self.data_root_dir)
        self._records[case] = {
            "case": case,
            "file": os.path.abspath(file),
            "series_uid": image.meta.get("series_instance_uid", ""),
            "probabilities": {name: round(value, 6) for name, value in probabilities.items()},
            "predicted_class": max(probabilities, key=lambda name: probabilities[name]),
            "model_name": self.model_name,
            "model_version": self.model_version,
        }
        self._write()
        return dict(data)

    def _probabilities(self, file: str, pred: Any) -> list[float]:
        values, count = torch.as_tensor(pred).detach(), len(self.class_names)
        if values.shape[:1] != (count,) or values.numel() != count:
            raise VolumeError(
                file,
                f"must have {count} probabilities, one for each of `class_names`, got values of shape "
                f"{tuple(values.shape)}; give the names of the network's classes.",
            )
        flat = values.double().flatten().tolist()
        if not all(0 <= value <= 1 for value in flat) or not abs(sum(flat) - 1) <= _TOLERANCE:  # NaN is neither
            shown = ", ".join(f"{value:g}" for value in flat)
            raise VolumeError(
                file,
                f"must have probabilities that sum to 1, got {shown}; place SaveClassificationd after "
                "`Activationsd` with `softmax`.",
            )
        return flat

    def _write(self) -> None:
        header = ["case", "series UID", *(f"{name} [probability]" for name in self.class_names)]
        header += ["predicted class", "model name", "model version"]
        rows = [
            [
                record["case"],
                record["series_uid"],
                *(f"{value:.6f}" for value in record["probabilities"].values()),
                record["predicted_class"],
                record["model_name"],
                record["model_version"],
            ]
            for record in self._records.values()
        ]
        replace_tables(self.output_dir / "classification", header, rows, list(self._records.values()))
