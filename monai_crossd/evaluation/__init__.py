"""Metrics for evaluation, and tables of results from the files that it leaves."""

from __future__ import annotations

from .segmentation import SegmentationScores, markdown_table, read_scores
from .spacing import SpacedHausdorffDistanceMetric, SpacedSurfaceDiceMetric

__all__ = [
    "SegmentationScores",
    "SpacedHausdorffDistanceMetric",
    "SpacedSurfaceDiceMetric",
    "markdown_table",
    "read_scores",
]
