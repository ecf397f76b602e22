"""Files that are no volume for a network: makers that write them, and the exact reasons for which they are refused.

Each maker writes into a folder of its own and returns the path that a user would name. ``broken_series`` has DICOM.
"""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from monai_crossd.data.volumes import suffix

SHAPE = (4, 5, 6)
Maker = Callable[[Path], Path]
Edit = Callable[[bytes], bytes]


class Broken(NamedTuple):
    """An input and how it is refused.

    Attributes:
        make: writes it.
        reason: the whole sentence; ``<cause>`` stands for the words of a library, ``<uid>`` for that of a series.
        reader: whether the image reader refuses it too; otherwise a network cannot use it, though it can be read.
        found: whether a search of the folder lists it; otherwise it is refused where it is named.
    """

    make: Maker
    reason: str
    reader: bool = True
    found: bool = True


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 30, shape or SHAPE).astype(np.float32)


def with_voxel(value: float) -> np.ndarray:
    values = noise()
    values[1, 2, 3] = value
    return values


def nifti(values: np.ndarray | None = None, edit: Edit | None = None, name: str = "a.nii.gz", **fields: Any) -> Maker:
    """A NIfTI with fields of its header set whatever nibabel thinks of them, and then its bytes changed."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        array = noise() if values is None else values
        image = nib.Nifti1Image(array, np.eye(4))
        for field, value in ({"vox_offset": 352, "scl_slope": 1, "scl_inter": 0} | fields).items():
            image.header[field] = value
        content = image.header.binaryblock + bytes(4) + array.tobytes("F")
        content = gzip.compress(content, mtime=0) if suffix(name) == ".nii.gz" else content
        (folder / name).write_bytes(edit(content) if edit else content)
        return folder / name

    return make


def claims(*shape: int) -> list[int]:
    """The ``dim`` of a shape."""
    return [len(shape), *shape, *[1] * (7 - len(shape))]


def pixdim(*mm: float) -> dict[str, Any]:
    return {"pixdim": [1, *mm, 0, 0, 0, 0]}


def by_qform(**fields: Any) -> dict[str, Any]:
    return {"sform_code": 0, "qform_code": 1, **fields}


def bytes_(data: bytes, name: str = "a.nii.gz") -> Maker:
    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        return folder / name

    return make


def itk(name: str, edit: Edit = bytes, values: np.ndarray | None = None, lacks: str = "") -> Maker:
    """A file of SimpleITK's, its bytes changed, or one of its files taken away."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(noise() if values is None else values), folder / name)
        (folder / name).write_bytes(edit((folder / name).read_bytes()))
        if lacks:
            (folder / lacks).unlink()
        return folder / name

    return make


def bad_checksum(content: bytes) -> bytes:
    """One bit of gzip's checksum, which stands for one bit of the voxels."""
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


def zipped(folder: Path) -> Path:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.nii.gz", "w") as archive:
        archive.writestr("a.nii", "no image")
    return folder / "a.nii.gz"


def other_suffix(folder: Path) -> Path:
    folder.mkdir(parents=True)
    nib.save(nib.MGHImage(noise(), np.eye(4)), folder / "a.mgh")
    return (folder / "a.mgh").rename(folder / "a.nii")


def dangling_link(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "a.nii.gz").symlink_to("annex/a.nii.gz")
    return folder / "a.nii.gz"


def pipe(folder: Path) -> Path:
    folder.mkdir(parents=True)
    os.mkfifo(folder / "a.nii.gz")
    return folder / "a.nii.gz"


def unreadable(folder: Path) -> Path:
    file = nifti()(folder)
    file.chmod(0)
    return file


def closed(folder: Path) -> Path:
    nifti()(folder / "closed")
    (folder / "closed").chmod(0)
    return folder / "closed"


def nothing(name: str, make: bool = False) -> Maker:
    def path(folder: Path) -> Path:
        (folder / name if make else folder).mkdir(parents=True)
        return folder / name

    return path


RGB = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
LABELS = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
TEXT = b"<!DOCTYPE html><title>404 Not Found</title>"

NO_VOLUMES = "holds no volumes; name a folder with NIfTI, NRRD, MetaImage or DICOM files (*.nii.gz, *.dcm)."
NO_NIFTI = "is no NIfTI, its first bytes are not those of a NIfTI header; copy or convert it again."
NOT_WHOLE = "cannot be read to its end as NIfTI ({}); copy or convert it again."
TOO_SHORT = "must have {} bytes for {} voxels of float32 as its header says, got {}; copy or convert it again."
EARLY = NOT_WHOLE.format("EOFError: <cause>")
NO_SIZE = "must have voxels of positive size, got {} mm as pixdim; repair its pixdim or sform."
NO_QFORM = "must have a unit quaternion as qform, got {} as its b, c, d; repair its qform or sform."
SINGULAR = "must have a regular affine, got a singular one of {} mm voxels; repair its sform or qform."
NOT_FINITE = "must hold finite values, got 1 of 120 NaN or infinite; replace them, by 0 for example."
FLAT = "must be a 3D volume, got the 2D shape {}; give the whole volume, not one slice of it."
ONE_NUMBER = "must hold one real number per voxel, got {}; convert it to gray values."
NOT_GZIP = (
    "must be compressed by gzip as its name says, but starts with {!r}; "
    "copy it again, or name it .nii if it is a NIfTI."
)

KINDS: dict[str, Broken] = {
    # geometry
    "zero spacing, sform": Broken(nifti(srow_y=[0, 0, 0, 0]), SINGULAR.format("1 x 0 x 1")),
    "zero spacing, qform": Broken(nifti(**by_qform(**pixdim(1, 0, 1))), NO_SIZE.format("1 x 0 x 1")),
    "negative spacing": Broken(nifti(**by_qform(**pixdim(1, -1, 1))), NO_SIZE.format("1 x -1 x 1")),
    "NaN spacing": Broken(nifti(**by_qform(**pixdim(1, 1, np.nan))), NO_SIZE.format("1 x 1 x nan")),
    "no unit quaternion": Broken(nifti(**by_qform(quatern_b=3)), NO_QFORM.format("3, 0, 0")),
    "NaN quaternion": Broken(nifti(**by_qform(quatern_d=np.nan)), NO_QFORM.format("0, 0, nan")),
    "singular affine": Broken(
        nifti(srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0]), SINGULAR.format("1.41421 x 1.41421 x 1")
    ),
    "NaN affine": Broken(
        nifti(srow_x=[np.nan, 0, 0, 0]),
        "must have a finite affine, got NaN or infinity in it; repair its sform or qform.",
    ),
    "no orientation": Broken(
        nifti(sform_code=0, qform_code=0),
        "must say how it lies in the patient, got 0 as sform_code and qform_code; convert the original images again, "
        "or set its orientation in a viewer and save it.",
        reader=False,
    ),
    # values
    "NaN voxel": Broken(nifti(with_voxel(np.nan)), NOT_FINITE, reader=False),
    "infinite voxel": Broken(nifti(with_voxel(-np.inf)), NOT_FINITE, reader=False),
    "constant": Broken(
        nifti(np.full(SHAPE, 3, np.int16)),
        "must show something, but every voxel is 3; export the image again.",
        reader=False,
    ),
    "label map": Broken(
        nifti(LABELS),
        "must be an image, got 3 whole values from 0 to 2 as in a label map; give the image instead.",
        reader=False,
    ),
    "RGB": Broken(nifti(RGB), ONE_NUMBER.format("RGB colors")),
    "complex": Broken(nifti(noise().astype(np.complex64)), ONE_NUMBER.format("complex64 values")),
    "unknown type": Broken(
        nifti(datatype=999), "must hold numbers of a known type, got datatype 999; convert it to float32."
    ),
    "infinite slope": Broken(
        nifti(scl_slope=np.inf), "must have a finite scl_slope and scl_inter, got inf and 0; convert it again."
    ),
    # shape
    "2D": Broken(nifti(noise(4, 5)), FLAT.format("(4, 5)"), reader=False),
    "one slice": Broken(nifti(noise(4, 5, 1)), FLAT.format("(4, 5, 1)"), reader=False),
    "4D": Broken(
        nifti(noise(4, 5, 6, 3)),
        "must have 1 channel, got 3, its shape is (4, 5, 6, 3); save the frame wanted as a 3D file.",
        reader=False,
    ),
    "5D": Broken(
        nifti(noise(4, 5, 6, 1, 3)),
        "must be a 3D volume, got 5 dimensions, (4, 5, 6, 1, 3); save the part wanted as a 3D file.",
        reader=False,
    ),
    "no voxels": Broken(nifti(dim=claims(4, 0, 6)), "is empty, its shape is (4, 0, 6); export the image again."),
    "negative size": Broken(nifti(dim=claims(4, -5, 6)), "is empty, its shape is (4, -5, 6); export the image again."),
    "nine dimensions": Broken(
        nifti(dim=[9, 4, 5, 6, 1, 1, 1, 1]), "must have 1 to 7 dimensions, got 9; convert it again."
    ),
    # size
    "huge claim": Broken(
        nifti(dim=claims(30000, 30000, 30000), name="a.nii"),
        TOO_SHORT.format(108000000000352, "30000 x 30000 x 30000", 832),
    ),
    "huge claim, compressed": Broken(
        nifti(dim=claims(30000, 30000, 30000)),
        TOO_SHORT.format(108000000000352, "30000 x 30000 x 30000", "at most <cause>"),
    ),
    "small false claim, compressed": Broken(nifti(dim=claims(8, 5, 6)), TOO_SHORT.format(1312, "8 x 5 x 6", 832)),
    "voxels beyond the end": Broken(nifti(vox_offset=10000, name="a.nii"), TOO_SHORT.format(10480, "4 x 5 x 6", 832)),
    "voxels in the header": Broken(
        nifti(vox_offset=np.nan),
        "must have its voxels after its header, got a vox_offset of nan bytes; convert it again.",
    ),
    # files
    "truncated": Broken(nifti(edit=lambda all_: all_[:-20], name="a.nii"), TOO_SHORT.format(832, "4 x 5 x 6", 812)),
    "truncated gzip": Broken(nifti(edit=lambda all_: all_[:-200]), EARLY),
    "truncated end of gzip": Broken(nifti(noise(40, 40, 40), edit=lambda all_: all_[:-4]), EARLY, reader=False),
    "damaged gzip": Broken(
        nifti(noise(40, 40, 40), edit=bad_checksum), NOT_WHOLE.format("BadGzipFile: <cause>"), reader=False
    ),
    "truncated header": Broken(nifti(edit=lambda all_: all_[:100], name="a.nii"), NO_NIFTI),
    "wrong magic": Broken(nifti(magic=b"abc"), NO_NIFTI),
    "another format": Broken(other_suffix, NO_NIFTI),
    "web page": Broken(bytes_(TEXT, "a.nii"), NO_NIFTI),
    "text as gzip": Broken(bytes_(TEXT), NOT_GZIP.format(b"<!DOCTYP")),
    "zip as gzip": Broken(zipped, NOT_GZIP.format(b"PK\x03\x04\x14\x00\x00\x00")),
    "not compressed": Broken(nifti(edit=gzip.decompress), NOT_GZIP.format(b"\\\x01\x00\x00\x00\x00\x00\x00")),
    "compressed": Broken(
        nifti(edit=gzip.compress, name="a.nii"),
        "must not be compressed by gzip as its name says, but starts with <cause>; "
        "copy it again, or name it .nii.gz if it is a NIfTI.",
    ),
    "zero bytes": Broken(bytes_(b""), "is empty, it has 0 bytes; copy it again."),
    "link to nowhere": Broken(
        dangling_link, "is a link to annex/a.nii.gz, which does not exist; copy the file itself."
    ),
    "image without header": Broken(
        bytes_(noise().tobytes(), "a.img"), "is in a format that is not read, .img; convert it to .nii.gz."
    ),
    # NRRD and MetaImage
    "NRRD, truncated": Broken(
        itk("a.nrrd", lambda all_: all_[:-20]), "cannot be read (<cause>); copy or convert it again."
    ),
    "NRRD, huge claim": Broken(
        itk("a.nrrd", lambda all_: all_.replace(b"sizes: 6 5 4", b"sizes: 30000 30000 30000")),
        "must hold 30000 x 30000 x 30000 voxels as its header says, got <cause> bytes; copy or convert it again.",
    ),
    "NRRD, zero spacing": Broken(
        itk("a.nrrd", lambda all_: all_.replace(b"(1,0,0)", b"(0,0,0)")),
        "cannot be read (Zero-valued spacing is not supported <cause>); copy or convert it again.",
    ),
    "MetaImage, truncated": Broken(
        itk("a.mha", lambda all_: all_[:-20]), "cannot be read to its end; copy or convert it again."
    ),
    "MetaImage, several channels": Broken(
        itk("a.mha", values=noise(3, 4, 5, 6)),
        "must have 1 channel, got 6, its shape is (5, 4, 3, 6); save the frame wanted as a 3D file.",
        reader=False,
    ),
    "MetaImage without its voxels": Broken(
        itk("a.mhd", lacks="a.raw"), "cannot be read (No such file or directory); copy or convert it again."
    ),
    # places
    "missing": Broken(nothing("a.nii.gz"), "does not exist; check the path.", found=False),
    "empty folder": Broken(nothing("empty", make=True), NO_VOLUMES, reader=False, found=False),
    "folder named as a file": Broken(nothing("a.nii", make=True), NO_VOLUMES, reader=False, found=False),
    "text": Broken(
        bytes_(b"notes", "notes.txt"),
        "is not named as NIfTI, NRRD, MetaImage or a datalist, but '.txt'; give the folder of a DICOM series.",
        reader=False,
        found=False,
    ),
    "pipe": Broken(pipe, "is no regular file, but a pipe or device; copy it to a file.", found=False),
}
if os.name == "posix" and os.getuid():  # root may read everything
    KINDS |= {
        "no permission": Broken(unreadable, "cannot be read by this user; change its permissions."),
        "closed folder": Broken(closed, "cannot be searched by this user; change the folder's permissions."),
    }
