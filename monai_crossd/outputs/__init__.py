"""Results out: tables, pictures and a page beside the label maps that MONAI's ``SaveImaged`` writes."""

from __future__ import annotations

from .preview import SavePreviewd
from .report import write_report
from .table import StructureVolumesd, write_volumes

__all__ = ["SavePreviewd", "StructureVolumesd", "write_report", "write_volumes"]
