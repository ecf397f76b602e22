"""Weights of other layouts and dimensions into a network, with a report of every key."""

from __future__ import annotations

from .load import load_checkpoint
from .report import KeyShapes, LoadReport

__all__ = ["KeyShapes", "LoadReport", "load_checkpoint"]
