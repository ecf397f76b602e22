"""Volumes of the segmented structures: of one case in its data, of all cases as tables."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.volumes import PathLike
from .label_map import LabelMapd
from .notice import NOTICE

__all__ = ["StructureVolumesd", "replace_file", "replace_tables", "write_volumes"]

_KEY = "volumes_ml"


class StructureVolumesd(LabelMapd):
    """Measure the structures of a label map, and add ``"volumes_ml"`` to the data: name of a structure to mL.

    Args:
        keys: the key of the label map, one.
        structures: label value to name.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Measure them."""
        return {**data, _KEY: self.label_map(data).volumes(self.structures)}


def write_volumes(output_dir: PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``volumes.csv`` and ``volumes.json``, each replaced as a whole.

    Volumes are in mL to 0.001 mL, one mm³. CSV: a row per case with a column per structure and their total. JSON: the
    same, the path of each case's image, and the notice.

    Args:
        output_dir: folder to write to, made when needed.
        rows: ``{"case": name, "file": path, "volumes_ml": {structure: mL}}`` per case, with the same structures.
    """
    totals = [sum(row[_KEY].values()) for row in rows]
    header = ["case", *(f"{name} [mL]" for name in (rows[0][_KEY] if rows else ())), "total [mL]"]
    lines = [
        [row["case"], *(f"{volume:.3f}" for volume in (*row[_KEY].values(), total))]
        for row, total in zip(rows, totals, strict=True)
    ]
    records = [
        {
            "case": row["case"],
            "file": row["file"],
            _KEY: {name: round(volume, 3) for name, volume in row[_KEY].items()},
            "total_ml": round(total, 3),
        }
        for row, total in zip(rows, totals, strict=True)
    ]
    replace_tables(Path(output_dir) / "volumes", header, lines, records)


def replace_tables(
    stem: Path, header: Sequence[str], rows: Iterable[Sequence[str]], records: Sequence[Mapping[str, Any]]
) -> None:
    """Write ``rows`` to ``<stem>.csv`` and ``records`` to ``<stem>.json``, each as a whole; make their folder.

    Each record gets the notice that it is not for diagnostic use.
    """
    noted = [{**record, "notice": NOTICE} for record in records]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    stem.parent.mkdir(parents=True, exist_ok=True)
    replace_file(stem.with_suffix(".csv"), text.getvalue())
    replace_file(stem.with_suffix(".json"), json.dumps(noted, indent=2) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no UTF-8
    os.replace(partial, path)
