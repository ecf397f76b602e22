"""Results out: tables and pictures beside the label maps that MONAI's ``SaveImaged`` writes."""

from __future__ import annotations

from .preview import SavePreviewd
from .table import SaveStructureVolumesd

__all__ = ["SavePreviewd", "SaveStructureVolumesd"]
