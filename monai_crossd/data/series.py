"""DICOM series, found in files and folders by their tags."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from pydicom.errors import InvalidDicomError

from .volumes import PathLike, Paths, VolumeError, as_list

__all__ = ["Series", "Slice", "find_series", "is_dicom", "is_series_path", "one_series", "series_path", "source_tags"]

_PREFIX = "series_"

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "SeriesNumber",
    "Modality",
    "PatientPosition",
    "ImageType",
    "NumberOfFrames",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "EchoNumbers",
]


class Slice(NamedTuple):
    """A DICOM file and what its tags say, pixels not read."""

    path: str
    tags: pydicom.Dataset


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
    found: dict[str, list[Slice]] = {}
    damaged: list[str] = []
    for path in as_list(paths):
        named = not Path(path).is_dir()
        for file in [Path(path)] if named else _files(Path(path)):
            tags = _read_tags(file, named)
            if tags is None:
                damaged += [str(file)] if is_dicom(file) or file.suffix.lower() == ".dcm" else []
                continue
            if "Rows" not in tags or tags.get("Modality") == "SEG":
                if named:
                    raise VolumeError(file, f"holds no image, but {_kind(tags)}; give the image series.")
                damaged += [str(file)] if _is_image(tags) else []
                continue
            found.setdefault(str(tags.get("SeriesInstanceUID", "")), []).append(Slice(str(file), tags))
    return [Series(uid, slices, _beside(slices, damaged)) for uid, slices in found.items()]


def _beside(slices: list[Slice], files: list[str]) -> list[str]:
    folders = {os.path.dirname(part.path) for part in slices}
    return [file for file in files if os.path.dirname(file) in folders]


def is_dicom(path: PathLike) -> bool:
    """Whether a file has DICOM's preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


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
    series = find_series(paths)
    listing = "; ".join(map(str, series))
    if not series:
        raise VolumeError(where, "holds no DICOM images; name a folder of a DICOM series.")
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


def _files(folder: Path) -> Iterable[Path]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _read_tags(file: Path, named: bool) -> pydicom.Dataset | None:
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
    except FileNotFoundError:
        raise VolumeError(file, "does not exist; check the path.") from None
    except (InvalidDicomError, OSError, EOFError, ValueError) as error:
        if named:
            cause = " ".join(str(error).split())
            raise VolumeError(file, f"cannot be read as DICOM ({type(error).__name__}: {cause}).") from None
        return None


def _is_image(tags: pydicom.Dataset) -> bool:
    """By the class in the file's head, which a file that was cut off still has."""
    uid = tags.file_meta.get("MediaStorageSOPClassUID") or tags.get("SOPClassUID")
    return uid is None or "Image Storage" in uid.name


def _kind(tags: pydicom.Dataset) -> str:
    uid = tags.get("SOPClassUID")
    return f"is a {uid.name}" if uid else "an object of unknown class"


def source_tags(series: Series) -> dict[str, Any]:
    """What a result needs to know of its source, as plain values."""
    first = series.slices[0].tags
    return {
        "series_instance_uid": series.uid,
        "modality": str(first.get("Modality", "")),
        "patient_position": str(first.get("PatientPosition", "")),
    }
