"""From what a user names to a list of NIfTI volumes, and the name by which each volume's results go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["PathLike", "Paths", "VolumeError", "as_list", "case_name", "find_volumes"]

PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]

_SUFFIXES = (".nii", ".nii.gz")


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


def find_volumes(paths: Paths) -> list[dict[str, str]]:
    """List NIfTI volumes as MONAI's datasets take them.

    Args:
        paths: a file, a folder (searched with its subfolders for ``*.nii`` and ``*.nii.gz``; names that start with a
            dot are skipped), or a list of these.

    Returns:
        ``[{"image": path}, ...]``: the files as given, those of a folder sorted.

    Raises:
        VolumeError: if a path does not exist, a file is not named as NIfTI, or a folder holds no volume.
        ValueError: if ``paths`` is an empty list.
    """
    return [{"image": str(file)} for path in as_list(paths) for file in _expand(Path(path))]


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*.nii*") if _is_volume(file, path))
        if not found:
            raise VolumeError(path, "holds no volumes; name a folder with *.nii or *.nii.gz files.")
        return found
    if not path.exists():
        raise VolumeError(path, "does not exist; check the path.")
    if not path.name.endswith(_SUFFIXES):
        raise VolumeError(
            path, f"is not named as a NIfTI file (*.nii, *.nii.gz), but {path.suffix!r}; convert it first."
        )
    return [path]


def _is_volume(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.name.endswith(_SUFFIXES) and not hidden and file.is_file()


def case_name(path: PathLike, root: PathLike = "") -> str:
    """Name a volume's results: its path below ``root`` without ``.nii`` or ``.nii.gz``.

    It is the path that ``SaveImage(data_root_dir=root, separate_folder=False)`` gives, without its postfix.

    Args:
        path: the volume.
        root: folder above the volume; without it, the name is that of the file alone.

    Returns:
        For example ``"patient_7/t1"`` for ``data/patient_7/t1.nii.gz`` below ``data``.
    """
    file = Path(os.path.relpath(path, root) if root else Path(path).name)
    return file.as_posix().removesuffix(".gz").removesuffix(".nii")
