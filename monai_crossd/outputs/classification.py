"""Probabilities of classes: of one case in its data, of all cases as tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..data.volumes import PathLike, VolumeError
from .table import replace_tables

__all__ = ["Classificationd", "write_classification"]

_KEY = "classification"

#: how far a sum of probabilities may lie from one; half precision needs it
_TOLERANCE = 0.01


class Classificationd(MapTransform):
    """Add ``"classification"`` to the data: what :func:`write_classification` writes of a case.

    Place it after ``Activationsd(softmax=True)``: the input is the probabilities of classes that exclude each other,
    not logits. Added are the SeriesInstanceUID where the image was a DICOM series, a probability per class, the
    predicted class, which is the most probable one, and the model's name and version.

    Args:
        keys: the key of the probabilities, one; shape ``(num_classes,)``, or with axes of length 1 behind.
        class_names: name of each class, in the order of the probabilities.
        model_name: name of the model.
        model_version: its version.
        image_key: key of the image that was classified; it names the file and the series.

    Raises:
        ValueError: if there are several keys, or the class names are fewer than two or not unique.
    """

    def __init__(
        self,
        keys: KeysCollection,
        class_names: Sequence[str],
        model_name: str,
        model_version: str,
        image_key: str = "image",
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"`keys` must name one key of probabilities, got {self.keys}; add a transform for each.")
        if isinstance(class_names, str) or len(class_names) < 2 or len(set(class_names)) < len(class_names):
            raise ValueError(f"`class_names` must be two or more different names, got {class_names!r}.")
        self.class_names = list(class_names)
        self.model_name, self.model_version = model_name, model_version
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Name the classes.

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
        found = {
            "series_uid": image.meta.get("series_instance_uid", ""),
            "probabilities": {name: round(value, 6) for name, value in probabilities.items()},
            "predicted_class": max(probabilities, key=lambda name: probabilities[name]),
            "model_name": self.model_name,
            "model_version": self.model_version,
        }
        return {**data, _KEY: found}

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
                f"must have probabilities that sum to 1, got {shown}; place Classificationd after "
                "`Activationsd` with `softmax`.",
            )
        return flat


def write_classification(output_dir: PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``classification.csv`` and ``classification.json``, each replaced as a whole.

    A row has the case, the SeriesInstanceUID, a probability per class, the predicted class, and the model's name and
    version; the JSON also the path of the image, and the notice.

    Args:
        output_dir: folder to write to, made when needed.
        rows: ``{"case": name, "file": path, "classification": what Classificationd adds}`` per case, with the same
            classes.
    """
    names = list(rows[0][_KEY]["probabilities"]) if rows else []
    header = ["case", "series UID", *(f"{name} [probability]" for name in names)]
    header += ["predicted class", "model name", "model version"]
    records = [{"case": row["case"], "file": row["file"], **row[_KEY]} for row in rows]
    lines = [
        [
            record["case"],
            record["series_uid"],
            *(f"{value:.6f}" for value in record["probabilities"].values()),
            record["predicted_class"],
            record["model_name"],
            record["model_version"],
        ]
        for record in records
    ]
    replace_tables(Path(output_dir) / "classification", header, lines, records)
