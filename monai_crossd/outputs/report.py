"""One HTML page over all cases of a run: the table, the pictures, and what was refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import monai_crossd

from ..data.volumes import PathLike, VolumeError
from .table import replace_file

__all__ = ["write_report"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }}
.notice {{ border-left: 4px solid #D55E00; padding: .2rem .8rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: right; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #8886; }}
th:first-child, td:first-child {{ text-align: left; overflow-wrap: anywhere; }}
td {{ font-variant-numeric: tabular-nums; }}
figure {{ margin: 1.5rem 0; }}
img {{ max-width: 100%; height: auto; }}
li {{ overflow-wrap: anywhere; }}
footer {{ color: #888; margin-top: 3rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="notice">Not for diagnostic use.</p>
<p>{summary}</p>
{refused}
<h2>Volumes</h2>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<h2>Pictures</h2>
{figures}
<footer>monai_crossd {version}</footer>
</body>
</html>
"""


def write_report(
    output_dir: PathLike, refused: Sequence[VolumeError] = (), title: str = "Segmentations", waiting: int = 0
) -> Path:
    """Write ``index.html`` over what :func:`write_volumes` and :class:`SavePreviewd` wrote.

    Args:
        output_dir: their folder; the page links to its files, so folder and page move together.
        refused: inputs that were refused, with the reasons.
        title: heading of the page.
        waiting: how many inputs are still to come.

    Returns:
        The page.

    Raises:
        FileNotFoundError: if the folder has no ``volumes.json``.
    """
    folder = Path(output_dir)
    source = folder / "volumes.json"
    if not source.is_file():
        raise FileNotFoundError(f"{source} does not exist; call `write_volumes` with this `output_dir` first.")
    rows: list[dict[str, Any]] = json.loads(source.read_text(encoding="utf-8"))
    count = len(rows) + len(refused) + waiting
    summary = f"{len(rows)} of {count} inputs segmented." + (f" {len(refused)} refused." if refused else "")
    page = _PAGE.format(
        title=escape(title),
        summary=summary + (f" {waiting} to come." if waiting else ""),
        refused=_refused(refused),
        head="".join(f"<th>{escape(name)}</th>" for name in _columns(rows)),
        rows="\n".join(_row(folder, row) for row in rows),
        figures="\n".join(_figure(folder, row["case"]) for row in rows),
        version=monai_crossd.__version__,
    )
    replace_file(folder / "index.html", page)
    return folder / "index.html"


def _columns(rows: list[dict[str, Any]]) -> Iterable[str]:
    return ["case", *(f"{name} [mL]" for name in (rows[0]["volumes_ml"] if rows else ())), "total [mL]"]


def _row(folder: Path, row: dict[str, Any]) -> str:
    case, file = row["case"], f"{row['case']}_seg.nii.gz"
    shown = f'<a href="{quote(os.fsencode(file))}">{escape(case)}</a>' if (folder / file).is_file() else escape(case)
    numbers = (*row["volumes_ml"].values(), row["total_ml"])
    return f"<tr><td>{shown}</td>" + "".join(f"<td>{number:.2f}</td>" for number in numbers) + "</tr>"


def _figure(folder: Path, case: str) -> str:
    file = f"{case}_preview.png"
    if not (folder / file).is_file():
        return f"<p>{escape(case)}: no picture.</p>"
    source = quote(os.fsencode(file))
    return f'<figure><img src="{source}" alt="{escape(case)}: planes with contours" loading="lazy"></figure>'


def _refused(refused: Sequence[VolumeError]) -> str:
    if not refused:
        return ""
    items = "\n".join(f"<li><b>{escape(error.args[0])}</b> {escape(error.args[1])}</li>" for error in refused)
    return f"<h2>Refused</h2>\n<ul>\n{items}\n</ul>"
