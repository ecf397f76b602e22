"""From the CSV files of a bundle's ``evaluate.json`` to one row per network."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

__all__ = ["SegmentationScores", "markdown_table", "read_scores"]

_FILES = {"dice": "val_mean_dice_raw.csv", "hd95": "val_hausdorff95_mm_raw.csv", "nsd": "val_surface_dice_*mm_raw.csv"}


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of one network, a number per case, each the mean over structures but for ``dice_of``.

    Attributes:
        dice_of: Dice of every structure.
        dice: Dice.
        hd95: 95 % Hausdorff distance in mm.
        nsd: surface Dice.
        tolerance: of the surface Dice, as its file names it, such as ``"1 mm"``.
    """

    dice_of: Mapping[str, Sequence[float]]
    dice: Sequence[float]
    hd95: Sequence[float]
    nsd: Sequence[float]
    tolerance: str


def read_scores(folder: str | Path, structures: Sequence[str]) -> SegmentationScores:
    """Read what ``evaluate.json`` wrote.

    Args:
        folder: its ``output_dir``.
        structures: names of the classes after the background, in their order.

    Raises:
        ValueError: for a missing file, or another number of classes.
    """
    files = {name: _find(Path(folder), file) for name, file in _FILES.items()}
    rows = {name: _read(file, len(structures)) for name, file in files.items()}
    dice_of = {name: [float(row[f"class{i}"]) for row in rows["dice"]] for i, name in enumerate(structures)}
    means = {name: [float(row["mean"]) for row in table] for name, table in rows.items()}
    tolerance = files["nsd"].name.removeprefix("val_surface_dice_").removesuffix("mm_raw.csv")
    return SegmentationScores(dice_of, means["dice"], means["hd95"], means["nsd"], f"{tolerance} mm")


def _find(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise ValueError(f"{folder / pattern} does not exist; give the `output_dir` of a run of evaluate.json.")
    return found[0]


def _read(path: Path, classes: int) -> list[dict[str, str]]:
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    found = sum(name.startswith("class") for name in rows[0]) if rows else 0
    if found != classes:
        raise ValueError(f"{path} has {found} classes, but {classes} structures are named; name each of them.")
    return rows


def markdown_table(scores: Mapping[str, SegmentationScores]) -> str:
    """A Markdown table with a row per network: mean Dice of each structure, of all with its spread, and distances.

    Args:
        scores: by the network's name, all with the same structures.
    """
    first = next(iter(scores.values()))
    structures = list(first.dice_of)
    head = ["network", *(f"Dice {name}" for name in structures), "Dice, mean ± sd", "worst case", "HD95 [mm]"]
    head += [f"surface Dice {first.tolerance}", "cases"]
    lines = [head, ["---"] * len(head)]
    for name, score in scores.items():
        row = [name, *(f"{mean(values):.4f}" for values in score.dice_of.values())]
        spread = stdev(score.dice) if len(score.dice) > 1 else 0.0
        row += [f"{mean(score.dice):.4f} ± {spread:.4f}", f"{min(score.dice):.4f}", f"{mean(score.hd95):.2f}"]
        lines.append([*row, f"{mean(score.nsd):.4f}", str(len(score.dice))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
