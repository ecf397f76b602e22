"""``python -m monai_crossd.evaluation NAME=FOLDER ... --structures A B``: the table of several evaluations."""

from __future__ import annotations

import argparse
import sys

from .segmentation import markdown_table, read_scores


def main(arguments: list[str] | None = None) -> None:
    """Print a Markdown table of the evaluations named."""
    parser = argparse.ArgumentParser(prog="python -m monai_crossd.evaluation", description=__doc__)
    parser.add_argument("evaluations", nargs="+", metavar="NAME=FOLDER", help="a name and what evaluate.json wrote")
    parser.add_argument("--structures", nargs="+", required=True, help="names of the classes after the background")
    options = parser.parse_args(arguments)
    pairs = [evaluation.partition("=") for evaluation in options.evaluations]
    for name, equals, _ in pairs:
        if not equals:
            parser.error(f"{name!r} must read NAME=FOLDER.")
    try:
        scores = {name: read_scores(folder, options.structures) for name, _, folder in pairs}
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(markdown_table(scores) + "\n")


if __name__ == "__main__":
    main()
