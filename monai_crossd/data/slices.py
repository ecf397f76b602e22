"""One DICOM file: its tags, read so that none of them fails later, and what it must be to be a slice of a volume."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pydicom
from pydicom.filereader import read_partial

from .volumes import PathLike, VolumeError, file_fault

__all__ = ["Slice", "image_fault", "is_dicom", "is_image", "may_be_dicom", "read_slice", "slice_fault"]

_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double and whole numbers
_UNDEFINED = 0xFFFFFFFF  # the length of compressed pixels, DICOM PS3.5 A.4
_MOST_COMPRESSED = 100_000  # bytes of pixels from one; an empty image in JPEG 2000 comes to some ten thousand

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
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
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
    """A DICOM file and what its tags say, pixels not read.

    Attributes:
        path: the file.
        tags: its tags; what cannot be decoded stands there as text.
        pixels: bytes of pixels in the file, as they are or compressed; None where there are none.
        compressed: whether they are compressed.
    """

    path: str
    tags: pydicom.Dataset
    pixels: int | None
    compressed: bool

    @property
    def name(self) -> str:
        """The file without its folder."""
        return os.path.basename(self.path)


def is_dicom(path: PathLike) -> bool:
    """Whether a file has DICOM's preamble."""
    try:
        return os.path.isfile(path) and _start(path)[128:] == b"DICM"
    except OSError:
        return False


def may_be_dicom(file: Path) -> bool:
    """By preamble or name; for what cannot be opened, also where the name has no suffix, as many of DICOM's."""
    named = file.suffix.lower() in (".dcm", ".ima")
    nameless = not file.suffix.strip(".0123456789") and not file.is_dir()
    return named or is_dicom(file) or (nameless and not os.access(file, os.R_OK))


def is_image(part: Slice) -> bool:
    """By the class in the file's head, which a file that was cut off still has."""
    uid = part.tags.file_meta.get("MediaStorageSOPClassUID")
    return "Image Storage" in getattr(uid, "name", "Image Storage")


def image_fault(part: Slice) -> str | None:
    """Why a file holds no image at all; a segmentation is none."""
    if "Rows" in part.tags and part.tags.get("Modality") != "SEG":
        return None
    return f"holds no image, but is a {_class_name(part.tags) or 'file of no class'}; give the image series."


def _class_name(tags: pydicom.Dataset) -> str:
    uid = tags.get("SOPClassUID") or tags.file_meta.get("MediaStorageSOPClassUID")
    return str(getattr(uid, "name", ""))


def read_slice(file: Path) -> Slice:
    """Read a file up to its pixels.

    Raises:
        VolumeError: if it is no file, or cannot be read as DICOM.
    """
    fault = file_fault(file)
    if not fault and not is_dicom(file):
        fault = f"is no DICOM file, it starts with {_start(file)[:8]!r} and has no preamble; copy or export it again."
    if fault:
        raise VolumeError(file, fault)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's on values; what matters of them, `slice_fault` refuses
            return _read(file)
    except Exception as error:  # of many kinds, for a damaged file
        cause = " ".join(str(error).split()).rstrip(".")
        reason = f"cannot be read as DICOM ({type(error).__name__}: {cause}); copy or export it again."
        raise VolumeError(file, reason) from error


def _start(path: PathLike) -> bytes:
    with open(path, "rb") as file:
        return file.read(132)


def _read(file: Path) -> Slice:
    lengths: list[tuple[int, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag in _PIXELS:
            lengths.append((length, 8 if vr is None else 12))  # bytes of the value, and of the head before it
        return tag in _PIXELS

    with open(file, "rb") as stream:
        tags = read_partial(stream, at_pixels, specific_tags=list(map(pydicom.tag.Tag, _TAGS)))
        list(tags.file_meta)  # decodes all of it
        deflated = getattr(tags.file_meta.get("TransferSyntaxUID"), "is_deflated", False)  # then all of it is read
        length, head = lengths[0] if lengths else (None, 0)
        if length is not None and not deflated:
            stream.seek(head, os.SEEK_CUR)
            left = os.path.getsize(file) - stream.tell()
            length = _fragments(stream, left) if length == _UNDEFINED else min(length, left)
    for name in _TAGS:
        _decode(tags, name)
    return Slice(str(file), tags, length, bool(lengths) and lengths[0][0] == _UNDEFINED)


def _fragments(stream: BinaryIO, left: int) -> int:
    """Bytes of compressed pixels, whose items GDCM would make room for whatever length they name."""
    total = 0
    while len(item := stream.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", item)
        left -= 8 + length
        if (group, element) == (0xFFFE, 0xE0DD):  # the end of the items
            break
        if (group, element) != (0xFFFE, 0xE000) or left < 0:
            raise ValueError("its compressed pixels do not lie within the file")
        total += length
        stream.seek(length, os.SEEK_CUR)
    return total


def _decode(tags: pydicom.Dataset, name: str) -> None:
    """Decode a value now; one that cannot be becomes text, to be refused where it is needed."""
    try:
        tags.get(name)
    except Exception:  # of many kinds
        raw = tags.get_item(name)
        text = (raw.value or b"").decode("latin-1").strip(" \0")[:40]
        tags[raw.tag] = pydicom.DataElement(raw.tag, "LT", text)


def slice_fault(part: Slice) -> str | None:
    """What keeps a file from being one slice of gray values with its place in the patient."""
    tags = part.tags
    frames = tags.get("NumberOfFrames") or 1
    if frames != 1 or "Enhanced" in _class_name(tags):
        found = _class_name(tags) or "a multi-frame object"
        return f"must hold one slice per file, got {found} with {frames} frames; convert it to single frames."
    types = tags.get("ImageType") or []
    if "LOCALIZER" in [str(value).upper() for value in ([types] if isinstance(types, str) else types)]:
        return f"is a localizer ({part.name}), not a stack of slices; choose another series."
    samples = tags.get("SamplesPerPixel") or 1
    if samples != 1:
        return f"must have one value per pixel, got {samples} in {part.name} (colors); convert it to gray values."
    if tags.get("PhotometricInterpretation") == "PALETTE COLOR":
        return f"must have gray values, got a color palette in {part.name}; convert it to gray values."
    fault = _pixel_fault(part) or _rescale_fault(tags) or _geometry_fault(tags)
    return f"{fault} in {part.name}; export the series again." if fault else None


def _pixel_fault(part: Slice) -> str | None:
    """Numbers by which pixels are read; GDCM guesses those that are missing, and reads beyond the pixels there are."""
    tags = part.tags
    for name, allowed in (
        ("Rows", None),
        ("Columns", None),
        ("BitsAllocated", (8, 16, 32)),
        ("PixelRepresentation", (0, 1)),
    ):
        value = tags.get(name)
        if not isinstance(value, int) or (value not in allowed if allowed else value < 1):
            rule = " or ".join(map(str, allowed)) if allowed else "a positive number"
            return f"must have {rule} as {name}, got {value}"
    if part.pixels is None:
        return "must have pixels, got none"
    row = tags.Columns * tags.BitsAllocated // 8
    size = f"for {tags.Rows} rows and {tags.Columns} columns of {tags.BitsAllocated} bits, got {part.pixels}"
    if part.compressed and tags.Rows * row > part.pixels * _MOST_COMPRESSED:
        return f"must have {tags.Rows * row} bytes of pixels {size} compressed ones"
    if not part.compressed and not 0 <= part.pixels - tags.Rows * row < max(row, 2):  # some pad their pixels
        return f"must have {tags.Rows * row} bytes of pixels {size}"
    return None


def _rescale_fault(tags: pydicom.Dataset) -> str | None:
    for name in ("RescaleSlope", "RescaleIntercept"):
        value = tags.get(name)
        if value is not None and not _are_numbers(value, 1):
            return f"must have a finite {name}, got {value}"
    if tags.get("RescaleSlope") == 0:
        return "must have a RescaleSlope other than 0, got 0"
    return None


def _geometry_fault(tags: pydicom.Dataset) -> str | None:
    for name, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        if not _are_numbers(tags.get(name), count):
            return f"must have {count} finite numbers as {name}, got {tags.get(name)}"
    if min(tags.PixelSpacing) <= 0:
        return f"must have a positive PixelSpacing, got {[float(value) for value in tags.PixelSpacing]} mm"
    given = np.asarray(tags.ImageOrientationPatient, float)
    row, column = given[:3], given[3:]
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-3):
        return f"must have orthogonal unit vectors as ImageOrientationPatient, got {given.tolist()}"
    return None


def _are_numbers(value: Any, count: int) -> bool:
    """Whether a value is so many finite numbers."""
    try:
        values = np.atleast_1d(np.asarray(value, float))
    except (TypeError, ValueError):
        return False
    return len(values) == count and bool(np.isfinite(values).all())
