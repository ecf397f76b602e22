"""Datalists that people write: CSV tables and the JSON of MONAI and the Medical Segmentation Decathlon."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .volumes import VolumeError

__all__ = ["DATALISTS", "read_datalist"]

DATALISTS = (".csv", ".json")

_PATHS = ("image", "label")
_SECTIONS = ("training", "validation", "test", "testing")


def read_datalist(file: Path, section: str | None = None) -> list[dict[str, str]]:
    """Read the cases of a table.

    Args:
        file: a CSV with a header that names the column ``image`` and others such as ``label``; or a JSON with a list of
            cases, or with lists named ``training``, ``validation`` and ``test``, cases being paths or
            ``{"image": ..., "label": ...}``. Relative paths start at the file's folder.
        section: the one list wanted of a JSON; all of them where None.

    Returns:
        ``[{"image": path, ...}, ...]`` in the order of the file.

    Raises:
        VolumeError: if the file cannot be read as such, has no case, or a case has no image.
    """
    try:
        rows = list(_json(file, section) if file.suffix.lower() == ".json" else _csv(file))
    except FileNotFoundError:
        raise VolumeError(file, "does not exist; check the path.") from None
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise VolumeError(file, f"cannot be read as a datalist ({type(error).__name__}: {error}).") from None
    if not rows:
        raise VolumeError(file, "names no case; give a row for each volume.")
    return [_absolute(file, number, row) for number, row in enumerate(rows, start=1)]


def _csv(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, newline="", encoding="utf-8-sig") as stream:
        yield from csv.DictReader(stream)


def _json(file: Path, section: str | None) -> Iterator[dict[str, Any]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        lists = [name for name in _SECTIONS if name in content] if section is None else [section]
        missing = [name for name in lists if not isinstance(content.get(name), list)]
        if missing or not lists:
            wanted = f"a list named {missing[0]!r}" if missing else f"a list named {', '.join(map(repr, _SECTIONS))}"
            raise VolumeError(file, f"must hold {wanted}, got {', '.join(map(repr, content)) or 'nothing'}.")
        content = [case for name in lists for case in content[name]]
    if not isinstance(content, list):
        raise VolumeError(file, f"must hold a list of cases, got {content!r:.40}.")
    for case in content:
        yield case if isinstance(case, dict) else {"image": case}


def _absolute(file: Path, number: int, row: Mapping[Any, Any]) -> dict[str, str]:
    """Paths from the file's folder; what names no file, such as a class or a fold, stays as it is."""
    if not isinstance(row.get("image"), str) or not row["image"]:
        raise VolumeError(file, f"must name an `image` for every case, got none in case {number}.")
    if None in row:  # as csv names what has no column
        raise VolumeError(file, f"must have a name for every column, got {row[None]} beyond them in case {number}.")
    return {
        key: os.path.join(file.parent.absolute(), value) if key in _PATHS and isinstance(value, str) else value
        for key, value in row.items()
        if value not in (None, "")
    }
