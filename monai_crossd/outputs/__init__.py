"""Results out: tables, pictures and DICOM-SEG beside the label maps that MONAI's ``SaveImaged`` writes."""

from __future__ import annotations

from .classification import SaveClassificationd
from .dicom_seg import SaveDicomSegd
from .preview import SavePreviewd
from .report import write_report
from .table import SaveStructureVolumesd

__all__ = ["SaveClassificationd", "SaveDicomSegd", "SavePreviewd", "SaveStructureVolumesd", "write_report"]
