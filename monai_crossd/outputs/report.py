"""One HTML page over all cases of a run: the table, the pictures, and what was refused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
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
    names = ["case", *(name for name, _ in _cells(rows[0]))]
    head = "".join(f"<th{_class(name)}>{escape(name)}</th>" for name in names)
    body = "\n".join(_row(folder, row) for row in rows)
    found = [row[_CLASSES] for row in rows if _CLASSES in row]
    models = dict.fromkeys(f"{one['model_name']} {one['model_version']}" for one in found)
    model = f"<p>Model: {escape(', '.join(models))}</p>\n" if models else ""
    return (
        f'<h2>Cases</h2>\n{model}<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _cells(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Heading and content of the columns beside the case."""
    if _CLASSES in row:
        yield _PREDICTED, row[_CLASSES]["predicted_class"]
        for name, value in row[_CLASSES]["probabilities"].items():
            yield f"{name} [probability]", f"{value:.3f}"
    if _VOLUMES in row:
        for name, volume in [*row[_VOLUMES].items(), ("total", sum(row[_VOLUMES].values()))]:
            yield f"{name} [mL]", f"{volume:.2f}"


def _row(folder: Path, row: Mapping[str, Any]) -> str:
    case, file = row["case"], f"{row['case']}_seg.nii.gz"
    shown = f'<a href="{quote(os.fsencode(file))}">{escape(case)}</a>' if (folder / file).is_file() else escape(case)
    cells = (f"<td{_class(name)}>{escape(text)}</td>" for name, text in _cells(row))
    return f"<tr><td>{shown}</td>{''.join(cells)}</tr>"


def _class(name: str) -> str:
    return ' class="text"' if name == _PREDICTED else ""


def _pictures(folder: Path, cases: Sequence[str]) -> str:
    """The pictures, where any case has one."""
    files = {case: f"{case}_preview.png" for case in cases}
    shown = {case for case, file in files.items() if (folder / file).is_file()}
    if not shown:
        return ""
    figures = (
        _figure(case, file) if case in shown else f"<p>{escape(case)}: no picture.</p>" for case, file in files.items()
    )
    return "<h2>Pictures</h2>\n" + "\n".join(figures)


def _figure(case: str, file: str) -> str:
    source = quote(os.fsencode(file))
    return f'<figure><img src="{source}" alt="{escape(case)}: planes with contours" loading="lazy"></figure>'


def _refused(refused: Sequence[VolumeError]) -> str:
    if not refused:
        return ""
    items = "\n".join(f"<li><b>{escape(error.args[0])}</b> {escape(error.args[1])}</li>" for error in refused)
    return f"<h2>Refused</h2>\n<ul>\n{items}\n</ul>"
