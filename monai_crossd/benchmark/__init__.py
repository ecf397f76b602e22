"""What Cross-D costs beside plain convolutions: ``python -m monai_crossd.benchmark``."""

from __future__ import annotations

from .literal import LiteralCrossDConv, with_literal_layers

__all__ = ["LiteralCrossDConv", "with_literal_layers"]
