"""Switches of a config, which a command line gives as text."""

from __future__ import annotations

__all__ = ["flag"]


def flag(name: str, value: bool | str) -> bool:
    """Read a switch.

    Args:
        name: what it is called, for the error.
        value: true or false, as such or as text in any case.

    Raises:
        ValueError: for anything else.
    """
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError(f"`{name}` must be true or false, got {value!r}.")
    return text == "true"
