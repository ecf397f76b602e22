"""Tables of results from the files that evaluation leaves."""

from __future__ import annotations

from .segmentation import SegmentationScores, markdown_table, read_scores

__all__ = ["SegmentationScores", "markdown_table", "read_scores"]
