from __future__ import annotations

import locale
from pathlib import Path

import dicom_files as made
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImage, SaveImage

from monai_crossd.data import SimpleITKReader, VolumeError, check_volume, find_series

SHARED = Path(__file__).parents[3] / "shared" / "data"
READER = "monai_crossd.data.SimpleITKReader"


def load(path, **arguments):
    return LoadImage(reader=SimpleITKReader(**arguments), ensure_channel_first=False)(path)


def test_a_series_comes_in_hu_on_its_own_grid(tmp_path):
    uid = made.write_series(tmp_path)
    image = LoadImage(reader=READER)(tmp_path)
    np.testing.assert_array_equal(image.numpy(), made.voxels().astype(np.float32) - 1000)
    np.testing.assert_allclose(image.affine.numpy(), made.affine(), atol=1e-5)
    assert image.meta["series_instance_uid"] == uid
    assert (image.meta["modality"], image.meta["patient_position"]) == ("CT", "HFS")
    np.testing.assert_allclose(image.meta["spacing"], made.SPACING, atol=1e-6)


def test_a_list_of_files_is_a_series_in_any_order(tmp_path):
    made.write_series(tmp_path)
    files = sorted(tmp_path.iterdir(), key=lambda file: hash(file.name))
    np.testing.assert_array_equal(load(files).numpy(), made.voxels().astype(np.float32) - 1000)


def test_one_of_several_series(tmp_path):
    uids = [made.write_series(tmp_path, seed=seed) for seed in (0, 1)]
    for seed, uid in enumerate(uids):
        image = load(tmp_path, series_uid=uid)
        np.testing.assert_array_equal(image.numpy(), made.voxels(seed).astype(np.float32) - 1000)
    with pytest.raises(VolumeError, match=f"(?s)must hold one series per volume, got 2: .*{uids[0]}.*`series_uid`"):
        load(tmp_path)
    with pytest.raises(VolumeError, match=r"holds no series 1\.2\.3, but series"):
        load(tmp_path, series_uid="1.2.3")
    assert {series.uid for series in find_series(tmp_path)} == set(uids)


def test_what_is_no_image_is_passed_over_in_a_folder(tmp_path):
    made.write_series(tmp_path / "ct")
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / ".hidden").write_bytes(b"x")
    assert load(tmp_path).shape == made.SHAPE


@pytest.mark.parametrize("syntax", ["RLE", "JPEG", "JPEG2000"])
def test_compressed_pixels(syntax, tmp_path, monkeypatch):
    monkeypatch.setattr(made, "SHAPE", (64, 48, 3))  # GDCM's RLE fails on images of some dozen pixels
    rle = pydicom.uid.RLELossless
    made.write_series(tmp_path, (lambda slice_, _: slice_.compress(rle)) if syntax == "RLE" else None)
    if syntax != "RLE":
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor(syntax)
        before = locale.setlocale(locale.LC_ALL)
        for file in tmp_path.iterdir():
            image = sitk.ReadImage(file)
            writer.SetFileName(file)
            writer.Execute(image)
        locale.setlocale(locale.LC_ALL, before)  # ITK's writer of DICOM leaves it at "C"
    assert pydicom.dcmread(next(tmp_path.iterdir())).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(load(tmp_path).numpy(), made.voxels().astype(np.float32) - 1000)


def test_every_slice_has_its_own_rescale(tmp_path):
    """As in PET; the type of the first slice, whole numbers, must not cut the others' fractions."""

    def scale(slice_, index):
        slice_.RescaleSlope, slice_.RescaleIntercept = (1, 0.25, 0.5, 2)[index], 0

    made.write_series(tmp_path, scale)
    np.testing.assert_allclose(load(tmp_path).numpy(), made.voxels() * np.array([1, 0.25, 0.5, 2]), rtol=1e-6)


TILT = np.tan(np.radians(20))


def tilt(slice_, index):
    shear = index * made.SPACING[2] * TILT * made.COLUMN
    slice_.ImagePositionPatient = [float(v) for v in np.asarray(slice_.ImagePositionPatient, float) + shear]


def test_gantry_tilt_is_refused_or_resampled(tmp_path):
    made.write_series(tmp_path, tilt)
    with pytest.raises(VolumeError, match=r"got a gantry tilt of 20\.00 degrees \(tolerance 0\.1\).*`tilted=True`"):
        load(tmp_path)
    image = load(tmp_path, tilted=True)
    axes = image.affine.numpy()[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, np.diag(made.SPACING**2), atol=1e-4)
    first = made.voxels()[:, :, 0].astype(np.float32) - 1000
    np.testing.assert_allclose(image.numpy()[:, : made.SHAPE[1], 0], first, atol=1e-3)
    drift = (made.SHAPE[2] - 1) * made.SPACING[2] * TILT / made.SPACING[1]  # rows
    whole, part = int(drift), drift % 1
    last = made.voxels()[:, :, -1].astype(np.float32) - 1000
    between = (1 - part) * last[:, 1:] + part * last[:, :-1]
    np.testing.assert_allclose(image.numpy()[:, whole + 1 : whole + made.SHAPE[1], -1], between, atol=0.1)


def test_a_tilted_series_comes_to_a_bundle_as_nifti(tmp_path):
    """As docs/reading.md says."""
    made.write_series(tmp_path / "tilted_series", tilt)
    image = LoadImage(reader=SimpleITKReader(tilted=True), ensure_channel_first=True)(tmp_path / "tilted_series")
    SaveImage(tmp_path, output_postfix="", separate_folder=False, resample=False, print_log=False)(image)
    check_volume(tmp_path / "tilted_series.nii.gz", modality="CT")
    written = load(tmp_path / "tilted_series.nii.gz")
    np.testing.assert_array_equal(written, image[0])
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_other_formats(suffix, tmp_path):
    """Written by SimpleITK, the affine is nibabel's on the same NIfTI."""
    image = sitk.GetImageFromArray(made.voxels().T.astype(np.float32))
    image.SetSpacing(made.SPACING.tolist())
    image.SetOrigin(made.ORIGIN.tolist())
    image.SetDirection(np.stack([made.ROW, made.COLUMN, made.NORMAL], axis=1).ravel().tolist())
    sitk.WriteImage(image, tmp_path / f"volume{suffix}")
    sitk.WriteImage(image, tmp_path / "same.nii")
    read = load(tmp_path / f"volume{suffix}")
    np.testing.assert_array_equal(read.numpy(), made.voxels())
    np.testing.assert_allclose(read.affine.numpy(), nib.load(tmp_path / "same.nii").affine, atol=1e-5)
    stacked = load([tmp_path / f"volume{suffix}", tmp_path / f"volume{suffix}"])
    assert stacked.shape == (2, *made.SHAPE)


def test_colors_are_channels(tmp_path):
    colors = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colors, isVector=True), tmp_path / "rgb.nrrd")
    image = LoadImage(reader=READER, ensure_channel_first=True)(tmp_path / "rgb.nrrd")
    np.testing.assert_array_equal(image.numpy(), colors.transpose(3, 2, 1, 0))


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_damaged_and_missing_files(suffix, tmp_path):
    (tmp_path / f"cut{suffix}").write_bytes(b"cut")
    with pytest.raises(VolumeError, match=f"cut{suffix}: (cannot be read|must be compressed by gzip)"):
        load(tmp_path / f"cut{suffix}")
    with pytest.raises(VolumeError, match=f"none{suffix}: does not exist; check the path"):
        load(tmp_path / f"none{suffix}")


def test_mixed_lists_are_refused(tmp_path):
    made.write_series(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 3), np.float32), np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(VolumeError, match="must be all DICOM or all of one other kind, got a mixed list"):
        load([tmp_path / "a.nii", next(tmp_path.glob("*.dcm"))])
    with pytest.raises(ValueError, match="must have one shape, got"):
        load([tmp_path / "a.nii", tmp_path / "b.nii"])


def test_names_that_it_reads(tmp_path):
    """What MONAI asks where it chooses the reader itself."""
    made.write_series(tmp_path)
    (tmp_path / "no_suffix").write_bytes(next(tmp_path.glob("*.dcm")).read_bytes())
    (tmp_path / "photo.png").write_bytes(b"png")
    reader = SimpleITKReader()
    for name in ("", "no_suffix", "a.nii.gz", "a.NRRD", "a.mha", "series_1_2"):
        assert reader.verify_suffix(tmp_path / name)
    assert not reader.verify_suffix(tmp_path / "photo.png")
    assert not reader.verify_suffix([tmp_path / "a.nii", tmp_path / "photo.png"])


def test_modality(tmp_path):
    made.write_series(tmp_path)
    assert load(tmp_path, modality="CT").shape == made.SHAPE
    with pytest.raises(VolumeError, match="must be of modality MR, got CT"):
        load(tmp_path, modality="MR")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not beside the project")
@pytest.mark.parametrize("case", ["STS_001", "STS_002"])
def test_dicom_equals_the_nifti_of_the_same_patient(case):
    image = load(SHARED / "dicom" / f"{case}_CT" / "image")
    theirs = nib.load(SHARED / "sts_ct" / f"{case}_ct.nii.gz")
    np.testing.assert_array_equal(image.numpy(), np.asarray(theirs.dataobj))
    np.testing.assert_allclose(image.affine.numpy(), theirs.affine, atol=1e-4)  # its header is float32


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not beside the project")
def test_the_ibsi_phantom_comes_in_hu():
    image = load(SHARED / "dicom" / "ibsi_phantom_CT")
    assert (float(image.min()), float(image.max())) == (-1000, 3065)
