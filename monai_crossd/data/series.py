"""DICOM series, found in files and folders by their tags."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .slices import Slice, image_fault, is_image, may_be_dicom, read_slice
from .volumes import PathLike, Paths, VolumeError, as_list, files_below, folder_fault

__all__ = [
    "Series",
    "brief",
    "find_series",
    "is_series_path",
    "one_series",
    "search_series",
    "series_path",
    "source_tags",
]

_PREFIX = "series_"


class Series(NamedTuple):
    """The files of one SeriesInstanceUID, in no order.

    Attributes:
        uid: SeriesInstanceUID.
        slices: its files.
        damaged: files beside them that look like DICOM and cannot be read; each may be one of its slices.
    """

    uid: str
    slices: list[Slice]
    damaged: list[str]

    @property
    def folder(self) -> str:
        """The closest folder above all files."""
        return os.path.commonpath([os.path.dirname(os.path.abspath(part.path)) for part in self.slices])

    def __str__(self) -> str:
        first = self.slices[0].tags
        described = f" {first.SeriesDescription!r}" if first.get("SeriesDescription") else ""
        return f"series {self.uid} ({first.get('Modality') or 'no modality'}{described}, {len(self.slices)} files)"


def find_series(paths: Paths) -> list[Series]:
    """Find the DICOM series in files and folders.

    Args:
        paths: a file, a folder (searched with its subfolders; files that are not DICOM and names that start with a dot
            are passed over), or a list of these.

    Returns:
        The series that hold images, by their first file; objects such as structure sets, segmentations and reports
        are left out where a folder was given.

    Raises:
        VolumeError: if a path does not exist, a file given by name is not DICOM, or one is DICOM without an image.
    """
    return search_series(paths)[0]


def search_series(paths: Paths) -> tuple[list[Series], list[str]]:
    """As :func:`find_series`, and what looks like DICOM, cannot be read and is beside no series."""
    found: dict[str, list[Slice]] = {}
    damaged: list[str] = []
    for path in as_list(paths):
        named = not os.path.isdir(path)
        for file in [Path(path)] if named else files_below(path):
            try:
                part = read_slice(file)
            except VolumeError:
                if named:
                    raise
                damaged += [str(file)] if may_be_dicom(file) else []
                continue
            fault = image_fault(part)
            if not fault:
                found.setdefault(str(part.tags.get("SeriesInstanceUID", "")), []).append(part)
            elif named:
                raise VolumeError(file, fault)
            else:
                damaged += [str(file)] if is_image(part) else []
    series = [Series(uid, slices, _beside(slices, damaged)) for uid, slices in found.items()]
    return series, sorted(set(damaged).difference(*(one.damaged for one in series)))


def _beside(slices: list[Slice], files: list[str]) -> list[str]:
    folders = {os.path.dirname(part.path) for part in slices}
    return [file for file in files if os.path.dirname(file) in folders]


def brief(files: Sequence[str]) -> str:
    """The names of the first files, and how many more there are."""
    names = [os.path.basename(file) for file in files]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def series_path(series: Series) -> str:
    """Name a series among several in one folder; :func:`one_series` finds it by this name.

    Dots would be taken for a suffix where results are named.
    """
    return os.path.join(series.folder, _PREFIX + series.uid.replace(".", "_"))


def is_series_path(path: PathLike) -> bool:
    """Whether a name is one that :func:`series_path` gives, of a folder that is there."""
    named = Path(path)
    return named.name.startswith(_PREFIX) and not named.exists() and named.parent.is_dir()


def one_series(paths: Paths, series_uid: str | None = None) -> Series:
    """The one series that files or a folder hold.

    Args:
        paths: as of :func:`find_series`, or a name that :func:`series_path` gave.
        series_uid: SeriesInstanceUID of the series wanted, where there are several.

    Returns:
        The series.

    Raises:
        VolumeError: if there is none, if there are several and none was chosen, or the one chosen is not there.
    """
    where = Path(as_list(paths)[0])
    if is_series_path(where):
        paths, series_uid = where.parent, where.name.removeprefix(_PREFIX).replace("_", ".")
    fault = folder_fault(where) if where.is_dir() else None
    if fault:
        raise VolumeError(where, fault)
    series, lone = search_series(paths)
    listing = "; ".join(map(str, series))
    if not series:
        found = f"but files that cannot be read as such, {brief(lone)}; copy them again" if lone else ""
        raise VolumeError(
            where, f"holds no DICOM images{', ' + found if found else '; name a folder of a DICOM series'}."
        )
    if series_uid is not None:
        chosen = [one for one in series if one.uid == series_uid]
        if not chosen:
            raise VolumeError(where, f"holds no series {series_uid}, but {listing}; choose one of these.")
        return chosen[0]
    if len(series) > 1:
        raise VolumeError(
            where, f"must hold one series per volume, got {len(series)}: {listing}; choose one by its `series_uid`."
        )
    return series[0]


def source_tags(series: Series) -> dict[str, Any]:
    """What a result needs to know of its source, as plain values."""
    first = series.slices[0].tags
    return {
        "series_instance_uid": series.uid,
        "modality": str(first.get("Modality", "")),
        "patient_position": str(first.get("PatientPosition", "")),
    }
