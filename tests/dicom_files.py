"""DICOM series for tests, written with pydicom: an oblique CT whose voxels and affine are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROW = np.array([0.8, 0.6, 0.0])  # direction of increasing column, LPS
COLUMN = np.array([-0.6, 0.8, 0.0])  # direction of increasing row
NORMAL = np.cross(ROW, COLUMN)
ORIGIN = np.array([-10.0, 20.0, 5.0])
SPACING = np.array([0.5, 0.7, 2.5])  # mm between columns, rows, slices
SHAPE = (6, 5, 4)  # columns, rows, slices

Change = Callable[[pydicom.Dataset, int], None]


def voxels(seed: int = 0) -> np.ndarray:
    """Stored values ``(columns, rows, slices)``; HU are these minus 1000."""
    return np.random.default_rng(seed).integers(0, 4000, SHAPE).astype(np.uint16)


def affine() -> np.ndarray:
    """From voxel to mm, RAS."""
    lps = np.eye(4)
    lps[:3, :3] = np.stack([ROW, COLUMN, NORMAL], axis=1) * SPACING
    lps[:3, 3] = ORIGIN
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def write_series(folder: Path, change: Change | None = None, seed: int = 0, uid: str | None = None) -> str:
    """Write one file per slice, named against their order, and return the SeriesInstanceUID.

    ``change(dataset, index)`` may break a slice before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    values = voxels(seed)
    for index in range(SHAPE[2]):
        slice_ = _slice(values[:, :, index].T, ORIGIN + index * SPACING[2] * NORMAL, uid)
        slice_.InstanceNumber = SHAPE[2] - index  # against the order of positions
        if change is not None:
            change(slice_, index)
        slice_.save_as(folder / f"{seed}_{SHAPE[2] - index:03d}.dcm", enforce_file_format=True)
    return uid


def _slice(pixels: np.ndarray, position: np.ndarray, uid: str) -> pydicom.Dataset:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.SeriesInstanceUID = uid
    data.StudyInstanceUID, data.FrameOfReferenceUID = (generate_uid(entropy_srcs=[uid, kind]) for kind in "SF")
    data.Modality, data.PatientPosition, data.PatientName = "CT", "HFS", "Test^Made"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient = [float(round(value, 6)) for value in position]
    data.ImageOrientationPatient = [*ROW.tolist(), *COLUMN.tolist()]
    data.PixelSpacing = [float(SPACING[1]), float(SPACING[0])]  # between rows, between columns
    data.SliceThickness = float(SPACING[2])
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1000
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    return data
