"""Volumes of the segmented structures, as tables that grow with the cases."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection

from ..data.volumes import PathLike
from .label_map import LabelMap, LabelMapOutputd

__all__ = ["SaveStructureVolumesd", "replace_file", "replace_tables"]


class SaveStructureVolumesd(LabelMapOutputd):
    """Write the volume of each structure to ``volumes.csv`` and ``volumes.json``.

    Both are replaced as a whole after every case, so they are complete and readable at any time of a run, and hold the
    cases of this transform's life only. Volumes are in mL to 0.001 mL, one mm³. CSV: a row per case with a column per
    structure and their total. JSON: the same, and the path of each case's image.

    Args:
        keys: the key of the label map, one.
        output_dir: folder to write to.
        structures: label value to name.
        data_root_dir: folder above the images; a case is named by its path below it, or by its file name alone.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: PathLike,
        structures: Mapping[int, str] | Mapping[str, str],
        data_root_dir: PathLike = "",
    ) -> None:
        super().__init__(keys, output_dir, structures, data_root_dir)
        self._files: dict[str, str] = {}  # both by case: one that is run again replaces its row
        self._volumes: dict[str, dict[str, float]] = {}

    def write(self, label_map: LabelMap) -> None:
        """Add a case and replace both files."""
        self._files[label_map.case] = os.path.abspath(label_map.file)
        self._volumes[label_map.case] = label_map.volumes(self.structures)
        header = ["case", *(f"{name} [mL]" for name in self.structures.values()), "total [mL]"]
        rows = [
            [case, *(f"{volume:.3f}" for volume in (*volumes.values(), sum(volumes.values())))]
            for case, volumes in self._volumes.items()
        ]
        records = [
            {
                "case": case,
                "file": self._files[case],
                "volumes_ml": {name: round(volume, 3) for name, volume in volumes.items()},
                "total_ml": round(sum(volumes.values()), 3),
            }
            for case, volumes in self._volumes.items()
        ]
        replace_tables(self.output_dir / "volumes", header, rows, records)


def replace_tables(
    stem: Path, header: Sequence[str], rows: Iterable[Sequence[str]], records: Sequence[Mapping[str, Any]]
) -> None:
    """Write ``rows`` to ``<stem>.csv`` and ``records`` to ``<stem>.json``, each as a whole; make their folder."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    stem.parent.mkdir(parents=True, exist_ok=True)
    replace_file(stem.with_suffix(".csv"), text.getvalue())
    replace_file(stem.with_suffix(".json"), json.dumps(records, indent=2) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
