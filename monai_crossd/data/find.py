"""From what a user names to a list of volumes: NIfTI, NRRD, MetaImage and DICOM series, mixed and nested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .datalist import DATALISTS, read_datalist
from .series import Series, is_series_path, one_series, search_series, series_path
from .volumes import NIFTI, OTHERS, UNREAD, Paths, VolumeError, as_list, file_fault, files_below, suffix

__all__ = ["find_volumes"]


def find_volumes(paths: Paths) -> list[dict[str, str]]:
    """List volumes as MONAI's datasets take them, to be read by :class:`monai_crossd.data.SimpleITKReader`.

    Args:
        paths: a file, a folder (searched with its subfolders; names that start with a dot are skipped), a datalist (see
            :func:`monai_crossd.data.read_datalist`), or a list of these. NIfTI, NRRD and MetaImage are told by their
            suffixes, DICOM by its content.

    Returns:
        ``[{"image": path}, ...]``, with what else a datalist says of a case; the files as given, those of a folder
        sorted. A DICOM series is named by its folder; where that holds several, each as
        ``folder/series_<SeriesInstanceUID, dots as underscores>``, a name that may be given as a path too. What a
        folder has of damaged DICOM files, links to nowhere, volumes in other formats and closed folders is listed too,
        to be refused by name when it is read.

    Raises:
        VolumeError: if a path does not exist, a file is none of these, or a folder holds no volume, or not the series
            named.
        ValueError: if ``paths`` is an empty list.
    """
    return [case for path in as_list(paths) for case in _cases(Path(path))]


def _cases(path: Path) -> list[dict[str, str]]:
    if suffix(path) in DATALISTS and not path.is_dir():
        return read_datalist(path)
    return [{"image": volume} for volume in _expand(path)]


def _expand(path: Path) -> list[str]:
    if path.is_dir():
        series, damaged = search_series(path)
        found = [str(file) for file in files_below(path) if _is_volume(file)]
        found += [*_series_paths(series), *damaged]
        if not found:
            raise VolumeError(
                path, "holds no volumes; name a folder with NIfTI, NRRD, MetaImage or DICOM files (*.nii.gz, *.dcm)."
            )
        return sorted(found)
    if not suffix(path) and is_series_path(path):
        one_series(path)
        return [str(path)]
    if not os.path.exists(path):
        raise VolumeError(path, file_fault(path) or "does not exist; check the path.")
    if suffix(path) not in (*NIFTI, *OTHERS, *UNREAD):
        raise VolumeError(
            path,
            f"is not named as NIfTI, NRRD, MetaImage or a datalist, but {path.suffix!r}; "
            "give the folder of a DICOM series.",
        )
    return [str(path)]


def _is_volume(file: Path) -> bool:
    return suffix(file) in (*NIFTI, *OTHERS, *UNREAD) or file.is_dir()


def _series_paths(series: list[Series]) -> Iterator[str]:
    """The folder where it holds no other series, below it neither; else the folder and the UID."""
    folders = [Path(one.folder) for one in series]
    for one, folder in zip(series, folders, strict=True):
        alone = sum(folder == other or folder in other.parents for other in folders) == 1
        yield str(folder) if alone else series_path(one)
