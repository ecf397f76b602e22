"""What is no regular stack is refused in one sentence: series, rule, measured value, remedy."""

from __future__ import annotations

import re

import dicom_files as made
import numpy as np
import pydicom
import pytest

from monai_crossd.data import VolumeError, check_series, check_volume, find_series, one_series


def set_tag(name, value, index=None):
    """Give all slices, or one, another value."""

    def change(slice_, i):
        if index in (None, i):
            setattr(slice_, name, value)

    return change


def without(name):
    return lambda slice_, index: delattr(slice_, name)


def move(*mm):
    """Shift each slice along the normal."""

    def change(slice_, index):
        shifted = np.asarray(slice_.ImagePositionPatient, float) + mm[index] * made.NORMAL
        slice_.ImagePositionPatient = [float(value) for value in shifted]

    return change


TURNED = [*made.COLUMN.tolist(), *made.NORMAL.tolist()]
BROKEN = {
    "localizer": (
        set_tag("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        r"is a localizer \(0_001\.dcm\), not a stack of slices; choose another series\.",
    ),
    "multi-frame": (
        set_tag("NumberOfFrames", 3),
        r"must hold one slice per file, got CT Image Storage with 3 frames; convert it to single frames\.",
    ),
    "enhanced": (
        set_tag("SOPClassUID", pydicom.uid.EnhancedCTImageStorage),
        r"must hold one slice per file, got Enhanced CT Image Storage with 1 frames; convert it to single frames\.",
    ),
    "colors": (
        set_tag("SamplesPerPixel", 3, 1),
        r"must have one value per pixel, got 3 in 0_003\.dcm \(colors\); convert it to gray values\.",
    ),
    "no position": (
        without("ImagePositionPatient"),
        r"must have 3 finite numbers as ImagePositionPatient, got None in 0_001\.dcm; export the series again\.",
    ),
    "no orientation": (
        without("ImageOrientationPatient"),
        r"must have 6 finite numbers as ImageOrientationPatient, got None in",
    ),
    "no pixel spacing": (without("PixelSpacing"), "must have 2 finite numbers as PixelSpacing, got None in"),
    "slope not a number": (
        lambda slice_, index: slice_.add_new("RescaleSlope", "DS", "nan"),
        r"must have a finite RescaleSlope, got nan in",
    ),
    "zero pixel spacing": (
        set_tag("PixelSpacing", [0.0, 0.5], 2),
        r"must have a positive PixelSpacing, got \[0\.0, 0\.5\] mm in 0_002\.dcm; export the series again\.",
    ),
    "no unit vectors": (
        set_tag("ImageOrientationPatient", [1.0, 0, 0, 0.5, 0.5, 0]),
        "must have orthogonal unit vectors as ImageOrientationPatient, got",
    ),
    "other size": (
        set_tag("Rows", 4, 2),
        r"must have slices of one size, got \(5, 6\) and \(4, 6\) in 0_001\.dcm and 0_002\.dcm; export the series",
    ),
    "other orientation": (
        set_tag("ImageOrientationPatient", TURNED, 1),
        r"must have slices of one orientation, got .* in 0_001\.dcm and 0_003\.dcm; separate them into series\.",
    ),
    "other pixel spacing": (
        set_tag("PixelSpacing", [0.7, 0.6], 0),
        r"must have one pixel spacing, got .* mm in 0_001\.dcm and 0_004\.dcm; separate them into series\.",
    ),
    "duplicate": (
        move(0, 0, -2.5, -2.5),
        r"must have one slice per position, got .* 0\.000 mm apart; separate the acquisitions, or remove the duplicate",
    ),
    "two acquisitions": (
        lambda slice_, index: (
            move(0, -2.5, -2.5, -5)(slice_, index),
            set_tag("AcquisitionNumber", index % 2)(slice_, 0),
        ),
        r"must have one slice per position, got .* 0\.000 mm apart \(the slices differ in AcquisitionNumber\);",
    ),
    "gap": (
        move(0, 0, 2.5, 2.5),
        r"must have no gaps, got 5\.000 mm between 0_003\.dcm and 0_002\.dcm where 2\.500 mm is usual, so about 1 "
        r"slice missing; export the series again\.",
    ),
    "large gap": (move(0, 0, 0, 5), "must have no gaps, got 7.500 mm .* so about 2 slices missing"),
    "uneven": (
        move(0, 0.2, 0.4, 0),
        r"must have evenly spaced slices, got 2\.100 to 2\.700 mm, a slice 0\.400 mm off the regular grid \(tolerance "
        r"0\.100 mm\); resample it to even spacing first\.",
    ),
}


@pytest.mark.filterwarnings("ignore:.*not.*valid.*:UserWarning", "ignore:.*Invalid value.*:UserWarning")  # pydicom
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_series(kind, tmp_path):
    change, message = BROKEN[kind]
    uid = made.write_series(tmp_path, change)
    with pytest.raises(VolumeError, match=f"^{tmp_path}: series {re.escape(uid)} \\(CT, 4 files\\) {message}"):
        check_series(one_series(tmp_path))


def test_one_slice_is_no_stack(tmp_path):
    made.write_series(tmp_path)
    with pytest.raises(VolumeError, match=r"\(CT, 1 files\) must be a stack of slices, got one; give the whole series"):
        check_series(one_series(next(tmp_path.iterdir())))


@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_rounded_positions_are_accepted(noise, tmp_path):
    made.write_series(tmp_path, move(0, noise, -noise, 0))
    geometry = check_series(one_series(tmp_path))
    np.testing.assert_allclose(geometry.spacing, made.SPACING, atol=1e-5)
    assert [file[-7:-4] for file in geometry.files] == ["004", "003", "002", "001"]


@pytest.mark.parametrize(("count", "spacing"), [(5, 0.7), (30, 3.0)])
def test_any_missing_slice_is_found(count, spacing, tmp_path, monkeypatch):
    monkeypatch.setattr(made, "SHAPE", (4, 4, count))
    monkeypatch.setattr(made, "SPACING", np.array([1, 1, spacing]))
    made.write_series(tmp_path)
    files = sorted(tmp_path.iterdir())
    for missing in {1, count // 2, count - 2}:
        with pytest.raises(VolumeError, match="must have no gaps"):
            check_series(one_series([file for i, file in enumerate(files) if i != missing]))


def test_two_slices_whatever_their_distance(tmp_path):
    """No third slice tells what is usual."""
    made.write_series(tmp_path)
    assert check_series(one_series(sorted(tmp_path.iterdir())[:2])).spacing[2] == pytest.approx(2.5)


def damaged(file):
    """Ways to break a file after it was written."""

    def no_pixels():
        data = pydicom.dcmread(file)
        del data.PixelData
        data.save_as(file)

    content = file.read_bytes()
    return {
        "truncated pixels": lambda: file.write_bytes(content[:-20]),
        "no pixels": no_pixels,
        "truncated header": lambda: file.write_bytes(content[:400]),
        "empty": lambda: file.write_bytes(b""),
    }


@pytest.mark.parametrize("place", ["0_001.dcm", "0_003.dcm"])
@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("truncated pixels", r"has pixels that cannot be read \(Cannot read requested file\); export it again\."),
        ("no pixels", r"has pixels that cannot be read \(Cannot read requested file\); export it again\."),
        (
            "truncated header",
            r"has files beside it that cannot be read as DICOM, {}; copy them again, or remove them\.",
        ),
        ("empty", r"has files beside it that cannot be read as DICOM, {}; copy them again, or remove them\."),
    ],
)
def test_damaged_files(way, message, place, tmp_path):
    """At the end of the stack too, where no gap tells of it."""
    made.write_series(tmp_path)
    damaged(tmp_path / place)[way]()
    with pytest.raises(VolumeError, match=rf"\(CT, [34] files\) {message.format(re.escape(place))}"):
        check_volume(tmp_path)


def test_places_without_images(tmp_path):
    with pytest.raises(VolumeError, match="holds no DICOM images; name a folder of a DICOM series"):
        one_series(tmp_path)
    with pytest.raises(VolumeError, match=r"none\.dcm: does not exist; check the path"):
        find_series(tmp_path / "none.dcm")
    (tmp_path / "notes.dcm").write_text("not DICOM")
    with pytest.raises(VolumeError, match=r"notes\.dcm: cannot be read as DICOM \(InvalidDicomError"):
        find_series(tmp_path / "notes.dcm")


def test_objects_without_an_image(tmp_path):
    """A structure set beside the images is passed over, alone it is named."""
    made.write_series(tmp_path)
    file = next(tmp_path.iterdir())
    structure_set = pydicom.dcmread(file)
    structure_set.SOPClassUID = pydicom.uid.RTStructureSetStorage
    for name in ("Rows", "Columns", "PixelData"):
        delattr(structure_set, name)
    structure_set.save_as(tmp_path / "rtss.dcm")
    assert len(one_series(tmp_path).slices) == 4
    with pytest.raises(
        VolumeError, match=r"rtss\.dcm: holds no image, but is a RT Structure Set Storage; give the image"
    ):
        find_series(tmp_path / "rtss.dcm")
