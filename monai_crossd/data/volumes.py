"""Paths of volumes: how they are refused, which suffixes they have, and the name by which their results go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NIFTI", "OTHERS", "PathLike", "Paths", "VolumeError", "as_list", "case_name", "suffix"]

PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]

NIFTI = (".nii", ".nii.gz")
OTHERS = (".nrrd", ".nhdr", ".mha", ".mhd")  # NRRD, MetaImage


class VolumeError(ValueError):
    """A volume, or a place to look for volumes, that cannot be used; reads ``"path: reason"``.

    Args:
        path: the file or folder.
        reason: the rule, the measured value and the remedy, without the path.
    """

    def __init__(self, path: PathLike, reason: str) -> None:
        super().__init__(str(path), reason)

    def __str__(self) -> str:
        return "{}: {}".format(*self.args)


def as_list(paths: Paths) -> list[PathLike]:
    """Wrap a single path into a list.

    Raises:
        ValueError: if ``paths`` is an empty list.
    """
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not listed:
        raise ValueError("`paths` must name at least one file or folder, got an empty list.")
    return listed


def suffix(path: PathLike) -> str:
    """A file's suffix in lower case, ``".nii.gz"`` as one."""
    name = os.fspath(path).lower()
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]


def case_name(path: PathLike, root: PathLike = "") -> str:
    """Name a volume's results: its path below ``root`` without suffix.

    It is the path that ``SaveImage(data_root_dir=root, separate_folder=False)`` gives, without its postfix.

    Args:
        path: the volume; for DICOM its folder.
        root: folder above the volume; without it, the name is that of the file alone.

    Returns:
        For example ``"patient_7/t1"`` for ``data/patient_7/t1.nii.gz`` below ``data``.
    """
    file = Path(os.path.relpath(path, root) if root else Path(path).name)
    return os.path.splitext(file.as_posix().removesuffix(".gz"))[0]
