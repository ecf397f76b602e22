"""DICOM that is no volume for a network, in the form of ``broken_files``; what is refused of a series is its folder."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import dicom_files as made
import numpy as np
import pydicom
from broken_files import TEXT, Broken, Edit, Maker, bytes_
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    HTJ2K,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
    RTStructureSetStorage,
    generate_uid,
)

TURNED = [*made.COLUMN.tolist(), *made.NORMAL.tolist()]
OBLIQUE = [0.5, 0.5, 0.0, *made.COLUMN.tolist()]


def write(folder: Path, change: made.Change | None = None, uid: str | None = None, seed: int = 0) -> Path:
    """Four slices of an MR series; ``change(slice_, index)`` breaks one. The first slice, 0, is ``0_004.dcm``."""

    def to_mr(slice_: pydicom.Dataset, index: int) -> None:
        slice_.Modality = "MR"
        if change is not None:
            change(slice_, index)

    with warnings.catch_warnings():  # pydicom warns of what is broken here on purpose
        warnings.simplefilter("ignore")
        made.write_series(folder, to_mr, seed, uid)
    return folder


def series(change: made.Change | None = None) -> Maker:
    return lambda folder: write(folder, change)


def tags(index: int | None = None, **values: Any) -> Maker:
    """All slices, or one, with other values."""

    def change(slice_: pydicom.Dataset, i: int) -> None:
        for name, value in values.items() if index in (None, i) else ():
            setattr(slice_, name, value)

    return series(change)


def without(name: str, index: int | None = None) -> Maker:
    return series(lambda slice_, i: delattr(slice_, name) if index in (None, i) else None)


def text(name: str, value: bytes) -> Maker:
    """A number written as a text that is none, which pydicom itself refuses to write."""

    def change(slice_: pydicom.Dataset, index: int) -> None:
        tag = pydicom.tag.Tag(name)
        slice_._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)

    return series(change)


def moved(*mm: float, along: np.ndarray = made.NORMAL, **each: list[int]) -> Maker:
    """Each slice moved along a direction, and given values of its own."""

    def change(slice_: pydicom.Dataset, index: int) -> None:
        position = np.asarray(slice_.ImagePositionPatient, float) + mm[index] * along
        slice_.ImagePositionPatient = [float(round(value, 6)) for value in position]
        for name, values in each.items():
            setattr(slice_, name, values[index])

    return series(change)


def edited(name: str, edit: Edit) -> Maker:
    """The bytes of one file changed after it was written."""

    def make(folder: Path) -> Path:
        file = write(folder) / name
        file.write_bytes(edit(file.read_bytes()))
        return folder

    return make


def without_files(*names: str) -> Maker:
    def make(folder: Path) -> Path:
        write(folder)
        for name in names:
            (folder / name).unlink()
        return folder

    return make


def colors(slice_: pydicom.Dataset, index: int) -> None:
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation, slice_.PlanarConfiguration = 3, "RGB", 0
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 8, 8, 7
    slice_.PixelData = bytes(3 * slice_.Rows * slice_.Columns)


def palette(slice_: pydicom.Dataset, index: int) -> None:
    slice_.PhotometricInterpretation = "PALETTE COLOR"
    for color in ("Red", "Green", "Blue"):
        setattr(slice_, f"{color}PaletteColorLookupTableDescriptor", [4096, 0, 16])
        setattr(slice_, f"{color}PaletteColorLookupTableData", bytes(2 * 4096))


def constant(slice_: pydicom.Dataset, index: int) -> None:
    slice_.PixelData = bytes(len(slice_.PixelData))


def smaller(slice_: pydicom.Dataset, index: int) -> None:
    if index == 2:
        slice_.Rows, slice_.PixelData = 4, slice_.PixelData[:48]


def compressed(syntax: str = RLELossless, part: float = 1, **values: Any) -> Maker:
    """Pixels in RLE, cut short, and said to be of another syntax."""

    def change(slice_: pydicom.Dataset, index: int) -> None:
        slice_.compress(RLELossless, generate_instance_uid=False)
        frame = next(generate_frames(slice_.PixelData, number_of_frames=1))
        slice_.PixelData = encapsulate([frame[: int(part * len(frame))]])
        slice_.file_meta.TransferSyntaxUID = syntax
        for name, value in values.items():
            setattr(slice_, name, value)

    return series(change)


def structure_set(folder: Path) -> Path:
    """A structure set named by itself."""

    def change(slice_: pydicom.Dataset, index: int) -> None:
        slice_.SOPClassUID = RTStructureSetStorage
        for name in ("Rows", "Columns", "PixelData"):
            delattr(slice_, name)

    return write(folder, change) / "0_001.dcm"


def directory(folder: Path) -> Path:
    """A DICOMDIR, its files not copied with it."""
    folder.mkdir(parents=True)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.FileSetID, data.DirectoryRecordSequence = "DISK", []
    data.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def zipped(folder: Path) -> Path:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.dcm", "w") as archive:
        archive.writestr("a", "no image")
    return folder / "a.dcm"


def of(reason: str, files: int = 4, modality: str = "MR") -> str:
    return f"series <uid> ({modality}, {files} files) {reason}"


EXPORT = "{} in {}; export the series again."
TWINS = "must have one slice per position, got {} 0.000 mm apart{}; separate the acquisitions, or remove the duplicate."
GAP = "must have no gaps, got {} mm between {} where 2.500 mm is usual, so about {} missing; export the series again."
ONE_PER_FILE = "must hold one slice per file, got {} frames; convert it to single frames."
PIXELS = "must have {} bytes of pixels for {} rows and {} columns of 16 bits, got {}"
UNREAD = "has pixels that cannot be read ({}: <cause>); export it uncompressed."
DAMAGED = "has files beside it that cannot be read as DICOM, {}; copy them again, or remove them."
NO_DICOM = "is no DICOM file, it starts with {} and has no preamble; copy or export it again."
LOCALIZER = "is a localizer (0_001.dcm), not a stack of slices; choose another series."
BY_NAME = (
    "is not named as NIfTI, NRRD, MetaImage or a datalist, but {!r}; give the folder of a DICOM series."  # never opened
)


def each(reason: str, file: str = "0_001.dcm") -> str:
    return of(EXPORT.format(reason, file))


KINDS: dict[str, Broken] = {
    # the stack
    "missing slice": Broken(
        without_files("0_002.dcm"), of(GAP.format("5.000", "0_003.dcm and 0_001.dcm", "1 slice"), files=3)
    ),
    "missing slices": Broken(moved(0, 0, 0, 5), of(GAP.format("7.500", "0_002.dcm and 0_001.dcm", "2 slices"))),
    "one slice": Broken(
        without_files("0_001.dcm", "0_002.dcm", "0_003.dcm"),
        of("must be a stack of slices, got one; give the whole series.", files=1),
    ),
    "duplicate": Broken(moved(0, 0, -2.5, -2.5), of(TWINS.format("0_002.dcm and 0_003.dcm", ""))),
    "two acquisitions": Broken(
        moved(0, -2.5, -2.5, -5, AcquisitionNumber=[0, 1, 0, 1]),
        of(TWINS.format("0_003.dcm and 0_004.dcm", " (the slices differ in AcquisitionNumber)")),
    ),
    "time series": Broken(
        moved(0, -2.5, -2.5, -5, TemporalPositionIdentifier=[0, 1, 0, 1]),
        of(TWINS.format("0_003.dcm and 0_004.dcm", " (the slices differ in TemporalPositionIdentifier)")),
    ),
    "tilt": Broken(
        moved(0, 0.5, 1, 1.5, along=made.COLUMN),
        of(
            "must be stacked along the normal of its slices, got a gantry tilt of 11.31 degrees (tolerance 0.1); "
            "read it with `tilted=True` to have it resampled."
        ),
    ),
    "uneven": Broken(
        moved(0, 0.2, 0.4, 0),
        of(
            "must have evenly spaced slices, got 2.100 to 2.700 mm, a slice 0.400 mm off the regular grid (tolerance "
            "0.100 mm); resample it to even spacing first."
        ),
    ),
    "mixed orientation": Broken(
        tags(1, ImageOrientationPatient=TURNED),
        of(
            "must have slices of one orientation, got [ 0.8  0.6  0.  -0.6  0.8  0. ] and "
            "[-0.6  0.8  0.   0.  -0.   1. ] in 0_001.dcm and 0_003.dcm; separate them into series."
        ),
    ),
    "mixed pixel spacing": Broken(
        tags(0, PixelSpacing=[0.7, 0.6]),
        of(
            "must have one pixel spacing, got [0.7 0.5] and [0.7 0.6] mm in 0_001.dcm and 0_004.dcm; "
            "separate them into series."
        ),
    ),
    "mixed size": Broken(
        series(smaller),
        of("must have slices of one size, got (5, 6) and (4, 6) in 0_001.dcm and 0_002.dcm; export the series again."),
    ),
    # the geometry of a slice
    "no position": Broken(
        without("ImagePositionPatient"), each("must have 3 finite numbers as ImagePositionPatient, got None")
    ),
    "one number as position": Broken(
        tags(2, ImagePositionPatient=5.0),
        each("must have 3 finite numbers as ImagePositionPatient, got 5.0", "0_002.dcm"),
    ),
    "no orientation": Broken(
        without("ImageOrientationPatient"), each("must have 6 finite numbers as ImageOrientationPatient, got None")
    ),
    "oblique axes": Broken(
        tags(ImageOrientationPatient=OBLIQUE),
        each("must have orthogonal unit vectors as ImageOrientationPatient, got [0.5, 0.5, 0.0, -0.6, 0.8, 0.0]"),
    ),
    "no pixel spacing": Broken(without("PixelSpacing"), each("must have 2 finite numbers as PixelSpacing, got None")),
    "text as pixel spacing": Broken(
        text("PixelSpacing", b"one\\two "), each("must have 2 finite numbers as PixelSpacing, got ['one', 'two']")
    ),
    "zero pixel spacing": Broken(
        tags(2, PixelSpacing=[0.0, 0.5]), each("must have a positive PixelSpacing, got [0.0, 0.5] mm", "0_002.dcm")
    ),
    # the kind of image
    "wrong modality": Broken(
        tags(Modality="CT"), of("must be of modality MR, got CT; choose another series.", modality="CT")
    ),
    "no modality": Broken(
        without("Modality"), of("must be of modality MR, got none; choose another series.", modality="no modality")
    ),
    "localizer": Broken(tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), of(LOCALIZER)),
    "localizer, one word": Broken(tags(ImageType="LOCALIZER"), of(LOCALIZER)),
    "multi-frame": Broken(tags(NumberOfFrames=3), of(ONE_PER_FILE.format("CT Image Storage with 3"))),
    "enhanced": Broken(
        tags(SOPClassUID=EnhancedCTImageStorage), of(ONE_PER_FILE.format("Enhanced CT Image Storage with 1"))
    ),
    "colors": Broken(
        series(colors), of("must have one value per pixel, got 3 in 0_001.dcm (colors); convert it to gray values.")
    ),
    "palette": Broken(
        series(palette), of("must have gray values, got a color palette in 0_001.dcm; convert it to gray values.")
    ),
    # values
    "NaN slope": Broken(text("RescaleSlope", b"nan "), each("must have a finite RescaleSlope, got nan")),
    "text as slope": Broken(text("RescaleSlope", b"one "), each("must have a finite RescaleSlope, got one")),
    "zero slope": Broken(tags(RescaleSlope=0), each("must have a RescaleSlope other than 0, got 0")),
    "constant": Broken(
        series(constant),
        "must show something, but every voxel is -1000; export the image again.",
        reader=False,
    ),
    # pixels
    "no pixels": Broken(without("PixelData"), each("must have pixels, got none")),
    "no pixels in one": Broken(without("PixelData", 0), each("must have pixels, got none", "0_004.dcm")),
    "truncated pixels": Broken(
        edited("0_003.dcm", lambda all_: all_[:-20]), each(PIXELS.format(60, 5, 6, 40), "0_003.dcm")
    ),
    "more rows than pixels": Broken(tags(Rows=10), each(PIXELS.format(120, 10, 6, 60))),
    "fewer rows than pixels": Broken(tags(Rows=4), each(PIXELS.format(48, 4, 6, 60))),
    "fewer columns than pixels": Broken(tags(Columns=4), each(PIXELS.format(40, 5, 4, 60))),
    "no rows": Broken(tags(1, Rows=None), each("must have a positive number as Rows, got None", "0_003.dcm")),
    "huge claim": Broken(tags(Rows=65535, Columns=65535), each(PIXELS.format(8589672450, 65535, 65535, 60))),
    "huge claim, compressed": Broken(
        compressed(Rows=30000, Columns=30000),
        each(PIXELS.format(1800000000, 30000, 30000, "<cause> compressed ones")),
    ),
    "truncated, compressed": Broken(compressed(part=0.5), of(UNREAD.format("RLE Lossless"))),
    "no decoder": Broken(compressed(HTJ2K), of(UNREAD.format("High-Throughput JPEG 2000 Image Compression"))),
    "no sign": Broken(without("PixelRepresentation"), each("must have 0 or 1 as PixelRepresentation, got None")),
    "odd bits": Broken(tags(BitsAllocated=12), each("must have 8 or 16 or 32 as BitsAllocated, got 12")),
    # files
    "truncated header": Broken(edited("0_003.dcm", lambda all_: all_[:400]), of(DAMAGED.format("0_003.dcm"), files=3)),
    "zero bytes": Broken(edited("0_001.dcm", lambda all_: b""), of(DAMAGED.format("0_001.dcm"), files=3)),
    "not readable, nothing beside": Broken(bytes_(TEXT, "a.dcm"), NO_DICOM.format(b"<!DOCTYP")),
    "encrypted": Broken(bytes_(np.random.default_rng(0).bytes(5000), "a.dcm"), NO_DICOM.format("<cause>")),
    "encrypted after the preamble": Broken(
        bytes_(bytes(128) + b"DICM" + np.random.default_rng(0).bytes(5000), "a.dcm"),
        "holds no image, but is a file of no class; give the image series.",
    ),
    "cut in its first tag": Broken(
        bytes_(bytes(128) + b"DICM\x02\x00", "a.dcm"),
        "holds no image, but is a file of no class; give the image series.",
    ),
    "zip": Broken(zipped, NO_DICOM.format(b"PK\x03\x04\x14\x00\x00\x00")),
    "structure set": Broken(structure_set, BY_NAME.format(".dcm"), reader=False, found=False),
    "DICOMDIR": Broken(directory, BY_NAME.format(""), reader=False, found=False),
}
