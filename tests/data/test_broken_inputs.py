"""A corpus of broken inputs: each is refused by one exact sentence, none stops a good one, nothing is written of it."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import broken_files
import broken_series
import dicom_files as made
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from broken_files import Broken, nifti, noise
from monai.data import DataLoader, Dataset
from monai.transforms import AsDiscreted, Compose, EnsureChannelFirstd, LoadImage, LoadImaged, SaveImaged
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage

from monai_crossd.data import VolumeError, check_volume, find_volumes
from monai_crossd.data.__main__ import main
from monai_crossd.outputs import SavePreviewd

READER = "monai_crossd.data.SimpleITKReader"
KINDS: dict[str, Broken] = {f"NIfTI/{name}": kind for name, kind in broken_files.KINDS.items()}
KINDS |= {f"DICOM/{name}": kind for name, kind in broken_series.KINDS.items()}


def test_the_corpus_is_large() -> None:
    assert len(broken_files.KINDS) >= 40 and len(broken_series.KINDS) >= 40


def matches(reason: str, found: str) -> bool:
    return re.fullmatch(re.escape(reason).replace("<cause>", ".+").replace("<uid>", "[0-9.]+"), found) is not None


def sort_out(*paths: Path) -> tuple[list[str], dict[Path, str]]:
    """What a bundle for MR does with what a user names: the good images, and the reasons of the others."""
    good, refused = [], {}
    for path in paths:
        try:
            cases = find_volumes(path)
        except VolumeError as error:
            refused[Path(error.args[0])] = error.args[1]
            continue
        for case in cases:
            try:
                check_volume(case["image"], modality="MR")
                good.append(case["image"])
            except VolumeError as error:
                refused[Path(error.args[0])] = error.args[1]
    return good, refused


@pytest.mark.parametrize("name", KINDS)
def test_one_sentence(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = kind.make(tmp_path / "in put é" / "case")
    good, refused = sort_out(tmp_path / "in put é" if kind.found else path)
    assert not good and list(refused) == [path]
    assert matches(kind.reason, refused[path]), refused[path]


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.reader])
def test_the_reader_refuses_by_the_same_sentence(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = kind.make(tmp_path / "case")
    with pytest.raises(VolumeError) as caught:
        LoadImage(reader=READER, modality="MR")(path)
    assert caught.value.args[0] == str(path) and matches(kind.reason, caught.value.args[1]), caught.value


# Not broken, though it may look so: each maker returns what is read.


def good_series(change: made.Change | None = None) -> Callable[[Path], np.ndarray]:
    def make(folder: Path) -> np.ndarray:
        broken_series.write(folder, change)
        return made.voxels().astype(np.float32) - 1000

    return make


def good_nifti(name: str = "a.nii.gz", **fields: object) -> Callable[[Path], np.ndarray]:
    def make(folder: Path) -> np.ndarray:
        nifti(name=name, **fields)(folder)
        return noise()

    return make


def syntax(uid: str) -> made.Change:
    return lambda slice_, index: setattr(slice_.file_meta, "TransferSyntaxUID", uid)


def own_scale(slice_: pydicom.Dataset, index: int) -> None:
    """The first slice alone has nothing below 0."""
    if index == 0:
        slice_.PixelData = (np.frombuffer(slice_.PixelData, np.uint16) + np.uint16(96)).tobytes()
        slice_.RescaleIntercept = -1096


def own_sign(slice_: pydicom.Dataset, index: int) -> None:
    """HU as they are in one slice, unsigned with an intercept in the others."""
    if index == 2:
        slice_.PixelData = (np.frombuffer(slice_.PixelData, np.uint16).astype(np.int16) - 1000).tobytes()
        slice_.RescaleIntercept, slice_.PixelRepresentation, slice_.BitsStored, slice_.HighBit = 0, 1, 16, 15


def padded(slice_: pydicom.Dataset, index: int) -> None:
    slice_.PixelData += bytes(8)


def nameless(folder: Path) -> np.ndarray:
    array = good_series()(folder)
    for file in folder.iterdir():
        file.rename(file.with_suffix(""))
    return array


def linked(folder: Path) -> np.ndarray:
    """The folder lies elsewhere, and links back to where it is linked from."""
    elsewhere = folder.parent.parent / "elsewhere" / folder.name
    array = good_series()(elsewhere / "mr")
    folder.parent.mkdir(parents=True)
    folder.symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "back").symlink_to(folder.parent, target_is_directory=True)
    return array


def beside_others(folder: Path) -> np.ndarray:
    array = good_series()(folder / "images")
    broken_series.structure_set(folder / "set")
    for name in ("0_002.dcm", "0_003.dcm", "0_004.dcm"):
        (folder / "set" / name).unlink()
    broken_series.directory(folder / "disk")
    broken_series.tags(Modality="SEG", SOPClassUID=SegmentationStorage)(folder / "seg")
    (folder / "images" / "notes.txt").write_text("notes")
    (folder / "images" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return array


def big_endian(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True)
    image = nib.Nifti1Image(noise(), np.eye(4)).header.as_byteswapped(">")
    image["vox_offset"] = 352
    (folder / "a.nii").write_bytes(image.binaryblock + bytes(4) + noise().astype(">f4").tobytes("F"))
    return noise()


def metaimage(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True)
    sitk.WriteImage(sitk.GetImageFromArray(noise().T), folder / "é ü.mha")
    return noise()


GOOD: dict[str, Callable[[Path], np.ndarray]] = {
    "with spaces and é ü 日本/a": good_nifti("T1 größer.nii.gz"),
    "series with spaces and é ü 日本/mr 1": good_series(),
    "files without a suffix": nameless,
    "implicit": good_series(syntax(ImplicitVRLittleEndian)),
    "deflated": good_series(syntax(DeflatedExplicitVRLittleEndian)),
    "slices of their own intercept": good_series(own_scale),
    "slices of their own sign": good_series(own_sign),
    "padded pixels": good_series(padded),
    "a linked folder": linked,
    "beside a structure set, a segmentation, a DICOMDIR and notes": beside_others,
    "capitals": good_nifti("A.NII.GZ"),
    "big endian": big_endian,
    "two members of gzip": good_nifti(edit=lambda all_: all_ + gzip.compress(b"")),
    "spacing in the sform alone": good_nifti(pixdim=[1, 0, -1, np.nan, 0, 0, 0, 0]),
    "no slope": good_nifti(scl_slope=np.nan, scl_inter=np.nan),
    "a MetaImage": metaimage,
}


@pytest.mark.parametrize("name", GOOD)
def test_what_only_looks_broken_is_read(name: str, tmp_path: Path) -> None:
    expected = GOOD[name](tmp_path / "in" / name)
    (found,), refused = sort_out(tmp_path / "in")
    assert not refused
    image = LoadImage(reader=READER, modality="MR", image_only=True)(found)
    np.testing.assert_array_equal(image.numpy(), expected)


def test_two_series_in_one_folder(tmp_path: Path) -> None:
    """A search lists both; the folder alone says which there are."""
    for seed, uid in enumerate(("1.2.3", "1.2.4")):
        broken_series.write(tmp_path, uid=uid, seed=seed)
    assert [Path(found).name for found in sort_out(tmp_path)[0]] == ["series_1_2_3", "series_1_2_4"]
    with pytest.raises(VolumeError) as caught:
        LoadImage(reader=READER)(tmp_path)
    assert caught.value.args[1] == (
        "must hold one series per volume, got 2: series 1.2.3 (MR, 4 files); series 1.2.4 (MR, 4 files); "
        "choose one by its `series_uid`."
    )


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, str]]:
    """All of it in one folder; what is refused only where it is named lies outside. Reasons by path."""
    root = tmp_path_factory.mktemp("all")
    reasons = {kind.make(root / ("in" if kind.found else "named") / name): kind.reason for name, kind in KINDS.items()}
    for name, make in GOOD.items():
        if make is not linked:  # it would link back to the broken ones
            make(root / "in" / "good" / name)
    return root, reasons


def good_names(root: Path) -> set[str]:
    return {case["image"] for case in find_volumes(root / "in" / "good")}


def inputs(everything: tuple[Path, dict[Path, str]]) -> list[Path]:
    root, reasons = everything
    return [root / "in", *(path for path in reasons if (root / "named") in path.parents)]


def test_good_ones_are_processed_and_nothing_is_written_of_the_others(
    everything: tuple[Path, dict[Path, str]], tmp_path: Path
) -> None:
    root, reasons = everything
    good, refused = sort_out(*inputs(everything))
    assert set(good) == good_names(root) and len(good) == len(GOOD) - 1
    assert refused.keys() == reasons.keys()
    assert all(matches(reasons[path], reason) for path, reason in refused.items())

    structures, outputs = {1: "bright"}, {"output_dir": tmp_path, "data_root_dir": root}
    steps = [
        LoadImaged(keys="image", reader=READER),
        EnsureChannelFirstd(keys="image"),
        AsDiscreted(keys="image", threshold=100),
        SaveImaged(
            keys="image", output_postfix="seg", separate_folder=False, resample=False, print_log=False, **outputs
        ),
        SavePreviewd(keys="image", structures=structures, **outputs),
    ]
    for _ in DataLoader(Dataset([{"image": image} for image in good], Compose(steps)), batch_size=1):
        pass

    files = [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()]
    assert len([file for file in files if file.endswith("_seg.nii.gz")]) == len(GOOD) - 1
    assert len([file for file in files if file.endswith("_preview.png")]) == len(GOOD) - 1
    assert not [file for file in files if not file.endswith(("_seg.nii.gz", "_preview.png")) or "good" not in file]


def test_the_command_lists_them_all(
    everything: tuple[Path, dict[Path, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, reasons = everything
    paths = list(map(str, inputs(everything)))
    assert main([*paths, "--modality", "MR", "--output", str(tmp_path / "table.csv")]) == 1
    total = len(reasons) + len(GOOD) - 1
    assert f"{total} cases, {len(reasons)} with problems" in capsys.readouterr().out
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert len(rows) == total
    assert all(rows[name]["problems"] == "" and rows[name]["shape"] for name in good_names(root))
    assert all(matches(reason, rows[str(path)]["problems"]) for path, reason in reasons.items())


@pytest.mark.parametrize(("scale", "warned"), [(1, False), (0.01, True)])
def test_values_that_cannot_be_hu_are_warned_of(
    scale: float, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = (scale * (noise() * 20 - 3000)).clip(-1000).astype(np.float32) + (0 if scale == 1 else 100)
    path = nifti(values)(tmp_path)
    check_volume(path, modality="CT")
    expected = f"{path}: should be in HU, got values from "
    assert [record.getMessage().startswith(expected) for record in caplog.records] == [True] * warned
    caplog.clear()
    check_volume(path, modality=("CT", "MR"))
    assert not caplog.records


def test_several_modalities(tmp_path: Path) -> None:
    path = broken_series.write(tmp_path)
    check_volume(path, modality=("CT", "MR"))
    with pytest.raises(VolumeError, match=r"must be of modality CT or PT, got MR; choose another series\.$"):
        check_volume(path, modality=("CT", "PT"))
