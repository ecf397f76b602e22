"""Arguments of convolutions, checked and in one form."""

from __future__ import annotations

import operator
from collections.abc import Sequence

__all__ = ["as_pair", "sides"]


def as_pair(value: int | Sequence[int], name: str, least: int) -> tuple[int, int]:
    """One number or two as two, checked."""
    rule = f"`{name}` must be one whole number or two (rows, columns), got {value!r}."
    try:
        numbers = tuple(operator.index(v) for v in (value if isinstance(value, Sequence) else (value,)))
    except TypeError:
        raise ValueError(rule) from None
    if len(numbers) == 1:
        numbers = numbers * 2
    if len(numbers) != 2:
        raise ValueError(rule)
    if min(numbers) < least:
        raise ValueError(f"`{name}` must be {'positive' if least == 1 else '0 or more'}, got {value}.")
    return numbers[0], numbers[1]


def sides(
    padding: str | tuple[int, int], kernel_size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding before and after each axis, ``"same"`` with the extra pixel after, as torch has it."""
    if not isinstance(padding, str):
        return padding, padding
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise ValueError(f"`padding` must be numbers, 'same' or 'valid', got {padding!r}.")
    if stride != (1, 1):
        raise ValueError(f"`padding` 'same' needs `stride` 1, got stride {stride}; give the padding in pixels.")
    total = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    before = (total[0] // 2, total[1] // 2)
    return before, (total[0] - before[0], total[1] - before[1])
