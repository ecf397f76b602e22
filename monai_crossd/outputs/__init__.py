"""Results out: tables, pictures and DICOM-SEG beside the label maps that MONAI's ``SaveImaged`` writes."""

from __future__ import annotations

from .classification import Classificationd, write_classification
from .dicom_seg import SaveDicomSegd, dicom_seg_fault
from .preview import SavePreviewd
from .report import write_report
from .table import StructureVolumesd, write_volumes

__all__ = [
    "Classificationd",
    "SaveDicomSegd",
    "SavePreviewd",
    "StructureVolumesd",
    "dicom_seg_fault",
    "write_classification",
    "write_report",
    "write_volumes",
]
