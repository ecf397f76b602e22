"""Distances in mm where voxels are not 1 mm wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.metrics import HausdorffDistanceMetric, SurfaceDiceMetric

__all__ = ["SpacedHausdorffDistanceMetric", "SpacedSurfaceDiceMetric"]


class SpacedHausdorffDistanceMetric(HausdorffDistanceMetric):
    """:class:`monai.metrics.HausdorffDistanceMetric` in mm; handlers of MONAI's engines pass no spacing to a metric.

    Args:
        spacing: of the voxels, in mm.
        arguments: of the base class.
    """

    def __init__(self, spacing: Sequence[float], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spacing = list(spacing)

    def _compute_tensor(self, y_pred: Any, y: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return super()._compute_tensor(y_pred, y, spacing=self.spacing)


class SpacedSurfaceDiceMetric(SurfaceDiceMetric):
    """:class:`monai.metrics.SurfaceDiceMetric` in mm, see :class:`SpacedHausdorffDistanceMetric`.

    Args:
        spacing: of the voxels, in mm.
        arguments: of the base class; ``class_thresholds`` are then in mm.
    """

    def __init__(self, spacing: Sequence[float], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spacing = list(spacing)

    def _compute_tensor(self, y_pred: Any, y: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return super()._compute_tensor(y_pred, y, spacing=self.spacing)
