"""What stands wherever a result is shown."""

from __future__ import annotations

__all__ = ["NOTICE"]

NOTICE = "Not for diagnostic use"
