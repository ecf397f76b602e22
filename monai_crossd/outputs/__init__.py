"""Results out: tables and pictures beside the label maps that MONAI's ``SaveImaged`` writes."""

from __future__ import annotations

from .preview import SavePreviewd
from .report import write_report
from .table import SaveStructureVolumesd

__all__ = ["SavePreviewd", "SaveStructureVolumesd", "write_report"]
