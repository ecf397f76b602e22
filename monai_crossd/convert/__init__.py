"""Networks from 2D to Cross-D, from Cross-D to plain 3D and to plain 2D."""

from __future__ import annotations

from .convert import crossd_modules_, to_2d, to_3d, to_crossd

__all__ = ["crossd_modules_", "to_2d", "to_3d", "to_crossd"]
