"""Paths of volumes: how they are refused, which suffixes they have, and the name by which their results go."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = [
    "NIFTI",
    "OTHERS",
    "UNREAD",
    "PathLike",
    "Paths",
    "VolumeError",
    "as_list",
    "case_name",
    "file_fault",
    "files_below",
    "folder_fault",
    "suffix",
]

PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]

NIFTI = (".nii", ".nii.gz")
OTHERS = (".nrrd", ".nhdr", ".mha", ".mhd")  # NRRD, MetaImage
UNREAD = (".img", ".mgh", ".mgz", ".mnc")  # Analyze and pairs of files, FreeSurfer, MINC: refused, not passed over


class VolumeError(ValueError):
    """A volume, or a place to look for volumes, that cannot be used; reads ``"path: reason"``.

    Args:
        path: the file or folder.
        reason: the rule, the measured value and the remedy, without the path; what a file holds of line breaks and
            control characters becomes ``?``.
    """

    def __init__(self, path: PathLike, reason: str) -> None:
        super().__init__(str(path), "".join(char if char.isprintable() else "?" for char in reason))

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


def file_fault(path: PathLike) -> str | None:
    """Why a path is no file that can be read; asked before anything opens it and waits, as for a pipe."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            return f"is a link to {os.readlink(path)}, which does not exist; copy the file itself."
        return "does not exist; check the path."
    except OSError as error:
        return f"cannot be reached ({error.strerror}); check path and permissions."
    if stat.S_ISDIR(status.st_mode):
        return "is a folder, not a file; name the file itself."
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file, but a pipe or device; copy it to a file."
    if not os.access(path, os.R_OK):
        return "cannot be read by this user; change its permissions."
    return None if status.st_size else "is empty, it has 0 bytes; copy it again."


def folder_fault(path: PathLike) -> str | None:
    """Why a folder cannot be searched."""
    if os.access(path, os.R_OK | os.X_OK):
        return None
    return "cannot be searched by this user; change the folder's permissions."


def files_below(folder: PathLike) -> Iterator[Path]:
    """The files of a folder and its subfolders, sorted; names that start with a dot are passed over.

    Linked folders are searched once. Links to nowhere come too, and folders that cannot be searched, so that they can
    be named instead of missed.
    """
    closed: list[Path] = []
    seen: set[str] = set()
    for where, folders, files in os.walk(
        folder, onerror=lambda error: closed.append(Path(error.filename)), followlinks=True
    ):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        for name in [] if real in seen else sorted(files):
            file = os.path.join(where, name)
            if not name.startswith(".") and (os.path.isfile(file) or not os.path.exists(file)):
                yield Path(file)
        seen.add(real)
    yield from closed


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
