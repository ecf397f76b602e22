"""Tell whether a result is still that of its input and its weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..data.series import is_series_path
from ..data.volumes import PathLike, suffix

__all__ = ["file_digest", "input_stamp"]

_DETACHED = (".mhd", ".nhdr")  # headers whose voxels lie in a file of the same stem


def input_stamp(path: PathLike) -> str:
    """Tell a volume from a later one of the same name, without reading it.

    Args:
        path: a file, a DICOM folder or series; with a series all files of its folder count, as they do when it is read.

    Returns:
        A digest over names, sizes and times of change of the files; empty where they cannot be looked at.
    """
    digest = hashlib.sha256()
    try:
        for file in _files(Path(path)):
            status = file.stat()
            digest.update(os.fsencode(file.name) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    except OSError:  # the reader will say why
        return ""
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    folder = path.parent if is_series_path(path) else path
    if folder.is_dir():
        yield from sorted(file for file in folder.rglob("*") if file.is_file())
    elif suffix(path) in _DETACHED:
        yield from sorted(file for file in path.parent.glob("*") if file.is_file() and file.stem == path.stem)
    elif path.is_file():
        yield path


def file_digest(path: PathLike) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
