"""What was timed, as JSON, Markdown and a plot."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .cases import GROUPS
from .timing import Timing

__all__ = ["as_markdown", "write_plot", "write_tables"]

_SWEEPS = {"batch": ("images", 0), "side": ("side in pixels", 2), "channels": ("channels", 1)}


def write_tables(folder: Path, timings: Sequence[Timing], run: dict[str, Any]) -> str:
    """Write ``benchmark.json`` and ``benchmark.md``, each replaced as a whole.

    Args:
        folder: made where needed.
        timings: all rows so far.
        run: hardware, versions and arguments.

    Returns:
        The Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = as_markdown(timings, run)
    rows = [timing.as_dict() for timing in timings]
    _replace(folder / "benchmark.json", json.dumps({"run": run, "timings": rows}, indent=1) + "\n")
    _replace(folder / "benchmark.md", text)
    return text


def _replace(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)


def as_markdown(timings: Sequence[Timing], run: dict[str, Any]) -> str:
    """A table per group: each competitor's median in ms with its spread, and its ratio to the first."""
    lines = [", ".join(f"{key} {value}" for key, value in run.items()), ""]
    scaled = ", scaled down for a CPU" if run.get("sizes") == "small" else ""
    for group, title in GROUPS.items():
        rows = [timing for timing in timings if timing.group == group]
        if not rows:
            continue
        columns = ["input", "arithmetic", "work", "competitor", "ms (10 %, 90 %)", "ratio", "MiB", "ratio"]
        kernels = any(row.kernel_milliseconds is not None for row in rows)
        columns += ["kernels, ms", "ratio"] if kernels else []
        lines += [f"### {title}{scaled}", "", _line(columns), "|---" * len(columns) + "|"]
        for row in rows:
            cells = _cells(row, rows)
            lines.append(_line([row.shape, row.setting, row.work, row.competitor, *cells[: len(columns) - 4]]))
        lines.append("")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Timing, rows: Sequence[Timing]) -> list[str]:
    """Time, memory and kernels, each with its ratio to the plain competitor."""
    if row.milliseconds is None:
        return [row.error, *[""] * 5]
    base = _base(row, rows) or Timing("", "", "", "", "")  # which has no times
    time, *of_time = _with_ratio(row.milliseconds, base.milliseconds, 2)
    memory = _with_ratio(row.mebibytes, base.mebibytes, 0)
    kernels = _with_ratio(row.kernel_milliseconds, base.kernel_milliseconds, 2)
    return [f"{time} ({row.low:.2f}, {row.high:.2f})", *of_time, *memory, *kernels]


def _with_ratio(value: float | None, base: float | None, digits: int) -> list[str]:
    if value is None:
        return ["", ""]
    return [f"{value:.{digits}f}", f"{value / base:.2f}" if base else ""]


def _base(row: Timing, rows: Sequence[Timing]) -> Timing | None:
    """The plain competitor at the same work."""
    for other in rows:
        same = (other.shape, other.setting, other.work) == (row.shape, row.setting, row.work)
        if same and other.competitor in ("Conv2d", "Conv3d", "plain"):
            return other
    return None


def write_plot(file: Path, timings: Sequence[Timing]) -> None:
    """Ratio to the plain convolution against batch, side and channels; no file where there are no such rows.

    Args:
        file: a PNG.
        timings: all rows.
    """
    groups = [group for group in _SWEEPS if any(timing.group == group for timing in timings)]
    if not groups:
        file.unlink(missing_ok=True)  # that of another run
        return
    figure = Figure(figsize=(5 * len(groups), 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    labels: dict[str, Any] = {}
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        rows = [timing for timing in timings if timing.group == group]
        label, axis = _SWEEPS[group]
        curves = dict.fromkeys((row.competitor, row.setting, row.work) for row in rows)
        for competitor, setting, work in curves:
            own = [row for row in rows if (row.competitor, row.setting, row.work) == (competitor, setting, work)]
            points = [
                (int(row.shape.split(" x ")[axis]), row.milliseconds / base.milliseconds)
                for row in own
                if row.milliseconds and (base := _base(row, rows)) and base.milliseconds
            ]
            if points and competitor not in ("Conv2d", "plain"):
                style = "-" if work == "forward" else "--"
                name = f"{competitor}, {work}, {setting}"
                color = f"C{len(labels)}" if name not in labels else labels[name].get_color()
                (labels[name],) = axes.plot(*zip(*points, strict=True), style, marker="o", color=color)
        axes.axhline(1, color="gray", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="time / time of Conv2d", title=GROUPS[group])
        axes.set_xticks(sorted({int(row.shape.split(" x ")[axis]) for row in rows}))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for ticks in (axes.xaxis, axes.yaxis):
            ticks.set_major_formatter("{x:g}")
            ticks.set_minor_formatter(NullFormatter())
    figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=len(groups) + 1, fontsize=8)
    figure.savefig(file)
