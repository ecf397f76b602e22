"""What became of every key."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

__all__ = ["KeyShapes", "LoadReport"]

_NAMES_SHOWN = 3  # per row of the printed table


class KeyShapes(NamedTuple):
    """A key whose tensor has one shape in the checkpoint and another in the network."""

    key: str
    checkpoint: tuple[int, ...]
    network: tuple[int, ...]

    def __str__(self) -> str:
        """One line: key, old and new shape."""
        return f"{self.key} {self.checkpoint} -> {self.network}"


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_checkpoint` did with every key, each named once.

    The network's keys are loaded, reshaped, kept, skipped, missing or mismatched; those of the checkpoint that the
    network lacks are dropped, skipped or unexpected.

    Attributes:
        source: layout of the checkpoint: ``"published"``, ``"2d"``, ``"3d"``, ``"crossd"``, several of them joined by
            ``"+"``, or ``"plain"`` where no key tells layouts apart.
        loaded: copied with the shape they have.
        reshaped: laid out anew: 2D kernels as knowledge bases, stems with another number of input channels.
        kept: not in the checkpoint and rightly so: counters that old checkpoints lack, and the predictors of
            convolutions whose kernels come from a 2D or 3D network; the angle of these is reset to 0.
        skipped: left out on request.
        dropped: in the checkpoint, without a place here by rule: the published predictors of 1x1 convolutions.
        missing: in the network, not in the checkpoint.
        unexpected: in the checkpoint, not in the network.
        mismatched: in both, with shapes that do not fit.
    """

    source: str
    loaded: tuple[str, ...] = ()
    reshaped: tuple[KeyShapes, ...] = ()
    kept: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[KeyShapes, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, unexpected or mismatched."""
        return not (self.missing or self.unexpected or self.mismatched)

    def as_dict(self) -> dict[str, Any]:
        """The fields as strings, lists and dicts, ready for JSON."""
        return {"source": self.source} | {
            name: [row._asdict() if isinstance(row, KeyShapes) else row for row in rows] for name, rows in self._rows()
        }

    def __str__(self) -> str:
        """A short table: a row for every field that names a key, with their number and the first of them."""
        lines = [f"{'source':<11}{self.source}"]
        for name, rows in self._rows():
            shown = ", ".join(str(row) for row in rows[:_NAMES_SHOWN])
            more = f", and {len(rows) - _NAMES_SHOWN} more" if len(rows) > _NAMES_SHOWN else ""
            if rows:
                lines.append(f"{name:<11}{len(rows):>5}  {shown}{more}")
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, tuple[Any, ...]]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "source"]
