"""Series are found and put in order; the many ways to be no regular stack are in ``test_broken_inputs``."""

from __future__ import annotations

import re

import dicom_files as made
import numpy as np
import pydicom
import pytest

from monai_crossd.data import VolumeError, check_series, check_volume, find_series, one_series


def move(*mm):
    """Shift each slice along the normal."""

    def change(slice_, index):
        shifted = np.asarray(slice_.ImagePositionPatient, float) + mm[index] * made.NORMAL
        slice_.ImagePositionPatient = [float(value) for value in shifted]

    return change


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
        (
            "truncated pixels",
            "must have 60 bytes of pixels for 5 rows and 6 columns of 16 bits, got 40 in {}; export the series again",
        ),
        ("no pixels", "must have pixels, got none in {}; export the series again"),
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
    with pytest.raises(
        VolumeError, match=r"notes\.dcm: is no DICOM file, it starts with b'not DICO' and has no preamble"
    ):
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
