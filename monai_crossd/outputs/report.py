"""One HTML page over all cases of a run: the table, the pictures, and what was refused."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import monai_crossd

from ..data.volumes import PathLike, VolumeError
from .notice import NOTICE
from .table import replace_file

__all__ = ["summary", "write_report"]

#: keys of a row, and the column that is no number
_CLASSES, _VOLUMES, _PREDICTED = "classification", "volumes_ml", "predicted class"

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
th:first-child, td:first-child, .text {{ text-align: left; overflow-wrap: anywhere; }}
td {{ font-variant-numeric: tabular-nums; }}
figure {{ margin: 1.5rem 0; }}
img {{ max-width: 100%; height: auto; }}
li {{ overflow-wrap: anywhere; }}
footer {{ color: #888; margin-top: 3rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="notice">{notice}.</p>
<p>{summary}</p>
{refused}
{table}
{pictures}
<footer>monai_crossd {version}</footer>
</body>
</html>
"""


def write_report(
    output_dir: PathLike,
    rows: Sequence[Mapping[str, Any]],
    refused: Sequence[VolumeError] = (),
    title: str = "Results",
    waiting: int = 0,
) -> Path:
    """Write ``index.html``: a table over all cases, the pictures of :class:`SavePreviewd`, and what was refused.

    Args:
        output_dir: folder of the results; the page links to its files, so folder and page move together.
        rows: ``{"case": name}`` per case, with what :class:`StructureVolumesd` and :class:`Classificationd` add, where
            they do.
        refused: inputs that were refused, with the reasons.
        title: heading of the page.
        waiting: how many inputs are still to come.

    Returns:
        The page.
    """
    folder = Path(output_dir)
    page = _PAGE.format(
        title=escape(title),
        notice=NOTICE,
        summary=summary(len(rows), len(refused), waiting),
        refused=_refused(refused),
        table=_table(folder, rows) if rows else "",
        pictures=_pictures(folder, [row["case"] for row in rows]),
        version=monai_crossd.__version__,
    )
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "index.html", page)
    return folder / "index.html"


def summary(done: int, refused: int, waiting: int = 0) -> str:
    """How far a list of inputs is."""
    text = f"{done} of {done + refused + waiting} inputs done."
    return text + (f" {refused} refused." if refused else "") + (f" {waiting} to come." if waiting else "")


def _table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th{_class(name)}>{escape(name)}</th>" for name in ["case", *_cells(rows[0])])
    body = "\n".join(_row(folder, row) for row in rows)
    found = [row[_CLASSES] for row in rows if _CLASSES in row]
    models = dict.fromkeys(f"{one['model_name']} {one['model_version']}" for one in found)
    model = f"<p>Model: {escape(', '.join(models))}</p>\n" if models else ""
    return (
        f'<h2>Cases</h2>\n{model}<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Heading and content of the columns beside the case."""
    cells = {}
    if _CLASSES in row:
        cells[_PREDICTED] = row[_CLASSES]["predicted_class"]
        cells |= {f"{name} [probability]": f"{value:.3f}" for name, value in row[_CLASSES]["probabilities"].items()}
    if _VOLUMES in row:
        volumes = row[_VOLUMES] | {"total": sum(row[_VOLUMES].values())}
        cells |= {f"{name} [mL]": f"{volume:.2f}" for name, volume in volumes.items()}
    return cells


def _row(folder: Path, row: Mapping[str, Any]) -> str:
    case, file = row["case"], f"{row['case']}_seg.nii.gz"
    shown = f'<a href="{quote(os.fsencode(file))}">{escape(case)}</a>' if (folder / file).is_file() else escape(case)
    cells = (f"<td{_class(name)}>{escape(text)}</td>" for name, text in _cells(row).items())
    return f"<tr><td>{shown}</td>{''.join(cells)}</tr>"


def _class(name: str) -> str:
    return ' class="text"' if name == _PREDICTED else ""


def _pictures(folder: Path, cases: Sequence[str]) -> str:
    """The pictures, where any case has one."""
    found = {case: quote(os.fsencode(f"{case}_preview.png")) for case in cases if _picture(folder, case).is_file()}
    if not found:
        return ""
    figures = "\n".join(
        f'<figure><img src="{found[case]}" alt="{escape(case)}: planes with contours" loading="lazy"></figure>'
        if case in found
        else f"<p>{escape(case)}: no picture.</p>"
        for case in cases
    )
    return f"<h2>Pictures</h2>\n{figures}"


def _picture(folder: Path, case: str) -> Path:
    return folder / f"{case}_preview.png"


def _refused(refused: Sequence[VolumeError]) -> str:
    if not refused:
        return ""
    items = "\n".join(f"<li><b>{escape(error.args[0])}</b> {escape(error.args[1])}</li>" for error in refused)
    return f"<h2>Refused</h2>\n<ul>\n{items}\n</ul>"
