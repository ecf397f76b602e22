"""``python -m monai_crossd.data``: look through data before training on it, one row per case."""

from __future__ import annotations

import argparse
import csv
import sys

from tqdm import tqdm

from .describe import Description, describe
from .find import find_volumes
from .volumes import VolumeError


def main(arguments: list[str] | None = None) -> int:
    """Describe every case; the exit status is 1 where there are problems."""
    parser = argparse.ArgumentParser(
        prog="python -m monai_crossd.data",
        description="List volumes with shape, spacing, orientation, intensities, labels and every problem found.",
    )
    parser.add_argument("paths", nargs="+", help="files, folders, DICOM series, datalists (CSV, JSON)")
    parser.add_argument("--channels", type=int, default=1, help="channels that an image must have (default: 1)")
    parser.add_argument("--output", help="CSV file to write the rows to")
    parser.add_argument("--modality", help="modality that a DICOM series must have, such as MR (default: any)")
    options = parser.parse_args(arguments)
    cases: list[dict[str, str]] = []
    rows: list[Description] = []
    for path in options.paths:
        try:
            cases += find_volumes(path)
        except VolumeError as error:
            rows.append(Description(str(error.args[0]), problems=(error.args[1],)))
    if not cases:
        parser.error("; ".join(f"{row.case}: {row.problems[0]}" for row in rows))
    for case in tqdm(cases, desc="Reading", disable=len(cases) < 2):
        rows.append(describe(case, options.channels, options.modality))
    _print(rows)
    if options.output:
        with open(options.output, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0].as_row())
            writer.writeheader()
            writer.writerows(row.as_row() for row in rows)
    return 1 if any(row.problems for row in rows) else 0


def _print(rows: list[Description]) -> None:
    table = [row.as_row() for row in rows]
    short = [name for name in table[0] if name != "problems"]
    widths = {name: max(len(name), *(len(row[name]) for row in table)) for name in short}
    print("  ".join(name.ljust(width) for name, width in widths.items()))
    for row, description in zip(table, rows, strict=True):
        print("  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip())
        for problem in description.problems:
            print(f"    {problem}")
    bad = sum(bool(row.problems) for row in rows)
    print(f"{len(rows)} cases, {bad} with problems")


if __name__ == "__main__":
    sys.exit(main())
