"""A DICOM-SEG has every voxel of the label map at its place in the patient, and says what it is and was made from."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import dicom_files as made
import highdicom
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation

from monai_crossd.data import VolumeError, find_series, find_volumes
from monai_crossd.outputs import SaveDicomSegd

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")

STRUCTURES = {"1": "anterior", "5": "posterior"}
HIPPOCAMPUS = ["5366008", "SCT", "Hippocampus"]
CODES = {
    "1": {"type": HIPPOCAMPUS, "modifiers": [["255549009", "SCT", "Anterior"]]},
    "5": {"type": HIPPOCAMPUS, "category": ["85756007", "SCT", "Tissue"]},
}
#: directions of increasing column, row and file, LPS; the last two are stored against the normal of their slices
AXES = {
    "axial": ([1, 0, 0], [0, 1, 0], [0, 0, 1]),
    "sagittal": ([0, 1, 0], [0, 0, -1], [-1, 0, 0]),
    "coronal": ([1, 0, 0], [0, 0, -1], [0, 1, 0]),
    "oblique": (made.ROW, made.COLUMN, made.NORMAL),
    "feet first": ([-1, 0, 0], [0, 1, 0], [0, 0, 1]),
    "oblique, against the normal": (made.ROW, made.COLUMN, -made.NORMAL),
}


def save(folder: Path, **arguments) -> SaveDicomSegd:
    settings = {"structures": STRUCTURES, "codes": CODES, "model_name": "net", "model_version": "1.2"} | arguments
    return SaveDicomSegd("pred", folder, **settings)


def label_map(series, empty: bool = False) -> MetaTensor:
    """Random labels 0, 1, 3 and 5 on the grid that the reader gives, one slice without any."""
    image = LoadImage(reader="monai_crossd.data.SimpleITKReader", ensure_channel_first=True)(series)
    labels = np.random.default_rng(0).choice([0, 1, 3, 5], image.shape).astype(np.float32)
    labels[..., 1] = 0
    return MetaTensor(torch.from_numpy(labels * (not empty)), meta=image.meta)


def written(folder: Path, labels: MetaTensor, **arguments) -> Path:
    save(folder, **arguments)({"pred": labels})
    (file,) = folder.rglob("*")
    return file


def assert_at_its_place(values: np.ndarray, affine: np.ndarray, labels: MetaTensor) -> None:
    """Compare an array with the label map voxel for voxel by their places in the patient; affine in mm, LPS."""
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    index = np.stack([*np.indices(values.shape), np.ones(values.shape)]).reshape(4, -1)
    found = (np.linalg.inv(labels.affine.numpy()) @ ras @ index)[:3]
    np.testing.assert_allclose(found, np.rint(found), atol=1e-4)
    expected = labels.numpy()[0][tuple(np.rint(found).astype(int))]
    np.testing.assert_array_equal(values.ravel(), expected)


@pytest.mark.parametrize("order", ["stored", "RAS"])
@pytest.mark.parametrize("axes", AXES)
def test_every_voxel_is_at_its_place(axes, order, tmp_path, monkeypatch):
    for name, value in zip(("ROW", "COLUMN", "NORMAL"), AXES[axes], strict=True):
        monkeypatch.setattr(made, name, np.array(value, float))
    made.write_series(tmp_path / "in")
    labels = label_map(tmp_path / "in")
    if order == "RAS":
        labels = Orientation("RAS", labels=None)(labels)
    data = pydicom.dcmread(written(tmp_path / "out", labels))

    shared, frames = data.SharedFunctionalGroupsSequence[0], data.PerFrameFunctionalGroupsSequence
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    assert len(frames) == 2 * made.SHAPE[2], "every slice for each structure, the empty one too"
    places = set()
    for pixels, frame in zip(data.pixel_array, frames, strict=True):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = [float(value) for value in frame.PlanePositionSequence[0].ImagePositionPatient]
        affine = np.eye(4)  # columns, rows, the slice -> LPS
        affine[:3, 0], affine[:3, 1] = orientation[:3] * between_columns, orientation[3:] * between_rows
        affine[:3, 2], affine[:3, 3] = np.cross(orientation[:3], orientation[3:]), position
        assert_at_its_place(pixels.T[..., None], affine, labels == {1: 1, 2: 5}[number])
        places.add((number, *position))
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        (slice_,) = (part.tags for part in find_series(tmp_path / "in")[0].slices if part.tags.SOPInstanceUID == source)
        assert position == slice_.ImagePositionPatient
    assert len(places) == len(frames)


@pytest.mark.parametrize("axes", AXES)
def test_highdicom_reads_the_same_volume(axes, tmp_path, monkeypatch):
    for name, value in zip(("ROW", "COLUMN", "NORMAL"), AXES[axes], strict=True):
        monkeypatch.setattr(made, name, np.array(value, float))
    made.write_series(tmp_path / "in")
    labels = label_map(tmp_path / "in")
    volume = highdicom.seg.segread(written(tmp_path / "out", labels)).get_volume(combine_segments=True)
    assert volume.array.size == labels.numel()
    np.testing.assert_allclose(volume.spacing, made.SPACING[::-1])
    assert_at_its_place(np.choose(volume.array, [0, 1, 5]), volume.affine, labels * (labels != 3))


def test_it_says_what_it_is_and_was_made_from(tmp_path):
    uid = made.write_series(tmp_path / "in", lambda slice_, _: setattr(slice_, "PatientID", "P 7"))
    file = written(tmp_path / "out", label_map(tmp_path / "in"))
    assert file.name == "in_seg.dcm"
    data, source = pydicom.dcmread(file), find_series(tmp_path / "in")[0]
    first = pydicom.dcmread(source.slices[0].path)
    assert (data.PatientID, data.PatientName) == ("P 7", "Test^Made")
    assert data.StudyInstanceUID == first.StudyInstanceUID and data.SeriesInstanceUID != uid
    assert data.FrameOfReferenceUID == first.FrameOfReferenceUID
    (reference,) = data.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == uid
    named = [item.ReferencedSOPInstanceUID for item in reference.ReferencedInstanceSequence]
    assert sorted(named) == sorted(part.tags.SOPInstanceUID for part in source.slices)
    assert (data.SegmentationType, data.BitsAllocated, data.SegmentsOverlap) == ("BINARY", 1, "NO")
    assert data.ContentDescription == "Not for diagnostic use" and "Not for diagnostic use" in data.SeriesDescription
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.PixelSpacing, measures.SpacingBetweenSlices) == ([0.7, 0.5], 2.5)

    for segment, number, name in zip(data.SegmentSequence, (1, 2), STRUCTURES.values(), strict=True):
        assert (segment.SegmentNumber, segment.SegmentLabel) == (number, name)
        assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "net")
        assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.2"
        assert code_of(segment.SegmentedPropertyTypeCodeSequence) == HIPPOCAMPUS
    front, back = data.SegmentSequence
    assert code_of(front.SegmentedPropertyCategoryCodeSequence) == ["91723000", "SCT", "Anatomical Structure"]
    assert code_of(back.SegmentedPropertyCategoryCodeSequence) == ["85756007", "SCT", "Tissue"]
    (front,), (back,) = (segment.SegmentedPropertyTypeCodeSequence for segment in (front, back))
    assert code_of(front.SegmentedPropertyTypeModifierCodeSequence) == ["255549009", "SCT", "Anterior"]
    assert "SegmentedPropertyTypeModifierCodeSequence" not in back


def code_of(sequence) -> list[str]:
    (item,) = sequence
    return [item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning]


def test_a_structure_without_code_is_tissue_and_logged(tmp_path, caplog):
    made.write_series(tmp_path / "in")
    with caplog.at_level(logging.WARNING):
        file = written(tmp_path / "out", label_map(tmp_path / "in"), codes={"1": CODES["1"]})
    assert "No code in `codes` for posterior: written to DICOM-SEG as Tissue." in caplog.messages
    coded = pydicom.dcmread(file).SegmentSequence[1]
    for sequence in (coded.SegmentedPropertyTypeCodeSequence, coded.SegmentedPropertyCategoryCodeSequence):
        assert code_of(sequence) == ["85756007", "SCT", "Tissue"]


def test_nothing_segmented_has_every_frame_too(tmp_path):
    made.write_series(tmp_path / "in")
    data = pydicom.dcmread(written(tmp_path / "out", label_map(tmp_path / "in", empty=True)))
    assert data.NumberOfFrames == 2 * made.SHAPE[2] and not data.pixel_array.any()


def test_one_of_several_series_and_a_list_of_files(tmp_path):
    uids = [made.write_series(tmp_path / "in", seed=seed) for seed in (0, 1)]
    files = [str(file) for file in (tmp_path / "in").glob("1_*")]
    for uid, series in [*((None, case["image"]) for case in find_volumes(tmp_path / "in")), (uids[1], files)]:
        labels = label_map(series)
        data = pydicom.dcmread(written(tmp_path / "out", labels))
        used = data.ReferencedSeriesSequence[0].SeriesInstanceUID
        assert used == labels.meta["series_instance_uid"] and used == (uid or used)
        os.remove(data.filename)


def test_a_segmentation_beside_its_series_is_no_volume(tmp_path):
    made.write_series(tmp_path / "in")
    before = find_volumes(tmp_path)
    save(tmp_path / "in", structures={1: "one"}, codes=None)({"pred": label_map(tmp_path / "in")})
    assert len(list((tmp_path / "in").glob("*_seg.dcm"))) == 1
    assert find_volumes(tmp_path) == before
    with pytest.raises(VolumeError, match="holds no image, but is a Segmentation Storage; give the image series"):
        find_series(tmp_path / "in" / "in_seg.dcm")


def without(name):
    return lambda slice_, index: delattr(slice_, name)


def test_tags_that_may_be_empty_may_be_missing(tmp_path):
    made.write_series(tmp_path / "in", without("PatientName"))
    data = pydicom.dcmread(written(tmp_path / "out", label_map(tmp_path / "in")))
    assert data.PatientName == "" and data.StudyDate == ""


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (without("FrameOfReferenceUID"), "Source images have no Frame Of Reference UID, but it is required by the IOD"),
        (lambda slice_, index: setattr(slice_, "StudyInstanceUID", f"1.2.{index}"), "Source images must all be part"),
        (without("StudyInstanceUID"), "'FileDataset' object has no attribute 'StudyInstanceUID'"),
    ],
)
def test_a_series_that_cannot_be_referenced_is_named(change, cause, tmp_path):
    made.write_series(tmp_path / "in", change)
    message = rf"in: series .* cannot be the source of a DICOM-SEG \(.*{cause}.*\); complete its tags\."
    with pytest.raises(VolumeError, match=message):
        save(tmp_path / "out")({"pred": label_map(tmp_path / "in")})
    assert not list(tmp_path.glob("out/*"))


def test_slices_of_one_name_are_refused(tmp_path):
    made.write_series(tmp_path / "in", lambda slice_, _: setattr(slice_, "SOPInstanceUID", "1.2"))
    with pytest.raises(VolumeError, match=r"must have a SOPInstanceUID for each slice to be .*, got 1 for 4 slices; "):
        save(tmp_path / "out")({"pred": label_map(tmp_path / "in")})


@pytest.mark.parametrize("change", [lambda labels: labels[:, 1:], lambda labels: shifted(labels, 0.2)])
def test_another_grid_than_the_series_is_refused(change, tmp_path):
    made.write_series(tmp_path / "in")
    message = r"has a grid of \(6, 5, 4\) voxels that its label map, \(., 5, 4\), is not on; place SaveDicomSegd after"
    with pytest.raises(VolumeError, match=message):
        save(tmp_path / "out")({"pred": change(label_map(tmp_path / "in"))})


def shifted(labels: MetaTensor, voxels: float) -> MetaTensor:
    labels.affine[:3, 3] += voxels * labels.affine[:3, 2]
    return labels


def test_a_tilted_series_is_refused(tmp_path):
    def tilt(slice_, index):
        slice_.ImagePositionPatient = [*slice_.ImagePositionPatient[:2], float(5 + 2.5 * index)]
        slice_.ImagePositionPatient[0] += 0.4 * index

    made.write_series(tmp_path / "in", tilt)
    reader = LoadImage(reader="monai_crossd.data.SimpleITKReader", ensure_channel_first=True, tilted=True)
    with pytest.raises(VolumeError, match=r"is not on; .* write no DICOM-SEG of a tilted series that was resampled"):
        save(tmp_path / "out")({"pred": reader(tmp_path / "in")})


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    made.write_series(tmp_path / "in")
    labels = label_map(tmp_path / "in")
    file = written(tmp_path / "out", labels)
    before = file.read_bytes()

    def full(self, path):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "out", labels)
    assert os.listdir(tmp_path / "out") == ["in_seg.dcm"] and file.read_bytes() == before


def test_what_does_not_read_back_is_not_kept(tmp_path, monkeypatch):
    made.write_series(tmp_path / "in")
    get = highdicom.seg.Segmentation.get_pixels_by_source_instance
    monkeypatch.setattr(
        highdicom.seg.Segmentation, "get_pixels_by_source_instance", lambda *args, **kwargs: get(*args, **kwargs)[::-1]
    )
    with pytest.raises(VolumeError, match=r"in_seg\.dcm: reads back as another segmentation than was written; check"):
        save(tmp_path / "out")({"pred": label_map(tmp_path / "in")})
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({"2": CODES["1"]}, r"`codes` must have labels of `structures`, \[1, 5\], got '2'\."),
        ({"one": CODES["1"]}, r"`codes` must have labels of `structures`, \[1, 5\], got 'one'\."),
        ({"1": HIPPOCAMPUS}, r"`codes` must give '1' a 'type' and, .* got \['5366008', 'SCT', 'Hippocampus'\]\."),
        ({"1": {"category": HIPPOCAMPUS}}, r"`codes` must give '1' a 'type' and"),
        ({"1": {"type": HIPPOCAMPUS[:2]}}, r"`codes` must give '1' a 'type' and"),
        ({"1": {"type": [5366008, "SCT", "Hippocampus"]}}, r"`codes` must give '1' a 'type' and"),
        ({"1": {"type": HIPPOCAMPUS, "modifiers": HIPPOCAMPUS}}, r"`codes` must give '1' a 'type' and"),
        ({"1": {"type": HIPPOCAMPUS, "kind": HIPPOCAMPUS}}, r"`codes` must give '1' a 'type' and"),
    ],
)
def test_codes_must_be_codes_of_structures(codes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(tmp_path, codes=codes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "n" * 65}, r"`model_name` must be text of 1 to 64 characters for DICOM, got 'nnn"),
        ({"model_version": 1.0}, r"`model_version` must be text of 1 to 64 characters for DICOM, got 1\.0\."),
        (
            {"structures": {1: ""}, "codes": None},
            r"`structures` must be text of 1 to 64 characters for DICOM, got ''\.",
        ),
    ],
)
def test_names_must_fit_dicom(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(tmp_path, **arguments)
