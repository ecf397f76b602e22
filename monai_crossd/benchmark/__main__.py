"""``python -m monai_crossd.benchmark``: times, memory and ratios, written to a folder."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import monai
import torch
from tqdm import tqdm

import monai_crossd

from .cases import GROUPS, ON_CPU, Case, cases, layer_case
from .report import write_plot, write_tables
from .timing import Setting, settings, time_case


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"`--repeats` must be positive, got {options.repeats}; the default is 5.")
    if not 0 <= options.seed < 2**63:
        parser.error(f"`--seed` must lie from 0 to 2**63 - 1, got {options.seed}; the default is 0.")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("`--device cuda` needs a GPU that torch sees, got none; leave it out to run on the CPU.")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if options.kernels and device.type == "cpu":
        parser.error("`--kernels` needs a GPU that torch sees, got the CPU; leave it out.")
    small = device.type == "cpu" and not options.full
    options.shapes = options.shapes or [name for name in GROUPS if name not in ON_CPU or device.type == "cpu"]
    found = [row for name in options.shapes for row in _rows(parser, name, small, device)]
    named = {(row.group, row.label): row for row in found}  # named twice, timed once
    rows = _with(parser, list(named.values()), options.competitors)
    _check_settings(parser, options.settings, rows, device)
    folder = Path(options.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"`--output_dir` must be a folder that can be written, got {folder} ({error.strerror}).")
    torch.manual_seed(options.seed)
    work = [(row, setting) for row in rows for setting in _settings(options, row, device)]
    timings, text = [], ""
    with _two_threads(device):
        run = _run(device, options, small)
        for row, setting in tqdm(work, desc="Timing"):
            timings += time_case(row, setting, device, options.repeats, options.kernels)
            text = write_tables(folder, timings, run)  # a run that is cut off leaves what it timed
    print(text)
    write_plot(folder / "benchmark.png", timings)
    files = [file.name for file in sorted(folder.glob("benchmark.*"))]
    print(f"Written to {folder}: {', '.join(files)}")


@contextlib.contextmanager
def _two_threads(device: torch.device) -> Iterator[None]:
    """Two threads on a CPU, so that machines compare; ``OMP_NUM_THREADS`` asks for another number."""
    threads = torch.get_num_threads()
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monai_crossd.benchmark",
        description="Time Cross-D layers and networks beside plain ones, the literal form and ACSConv.",
    )
    shapes = f"groups ({', '.join(GROUPS)}) or shapes such as 8x64x128x128"
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", help=f"{shapes}; default: all groups of the device")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="full sizes on a CPU too")
    parser.add_argument("--settings", nargs="+", metavar="NAME", help='such as TF32 "bf16 channels_last"; default: all')
    parser.add_argument("--competitors", nargs="+", metavar="NAME", help="besides the first of a row; default: all")
    parser.add_argument("--compile", action="store_true", help="time torch.compile besides, on a GPU in two modes")
    parser.add_argument("--kernels", action="store_true", help="time a GPU's kernels alone besides")
    parser.add_argument("--output_dir", default="bench_output")
    return parser


def _rows(parser: argparse.ArgumentParser, name: str, small: bool, device: torch.device) -> list[Case]:
    if name in ON_CPU and device.type != "cpu":
        parser.error(f"`--shapes {name}` needs a CPU, got a GPU, whose layers are fused; add `--device cpu`.")
    if name in GROUPS:
        return cases([name], small, device.type)
    sizes = name.split("x")
    if len(sizes) not in (4, 5) or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        parser.error(
            f"`--shapes` must be groups ({', '.join(GROUPS)}) or shapes such as 8x64x128x128 (images) or "
            f"4x64x16x64x64 (volumes), got {name!r}."
        )
    group = "layers2d" if len(sizes) == 4 else "layers3d"
    return [layer_case(group, tuple(int(size) for size in sizes), _outputs(small))]


def _with(parser: argparse.ArgumentParser, rows: list[Case], asked: list[str] | None) -> list[Case]:
    """The rows with the competitors asked for by name, and the first of each, which ratios are to."""
    if asked is None:
        return rows
    every = {name for row in rows for name in (*row.competitors, *row.missing)}
    if unknown := [name for name in asked if name not in every]:
        parser.error(f"`--competitors` must be among {', '.join(sorted(every))}, got {', '.join(unknown)}.")
    found = []
    for row in rows:
        kept = {next(iter(row.competitors)), *asked}
        competitors = {name: build for name, build in row.competitors.items() if name in kept}
        missing = {name: reason for name, reason in row.missing.items() if name in kept}
        found.append(replace(row, competitors=competitors, missing=missing))
    return found


def _settings(options: argparse.Namespace, row: Case, device: torch.device) -> list[Setting]:
    """Those asked for by name, or else all but what needs a flag."""
    if options.settings is None:
        return settings(device, options.compile, row.group)
    every = settings(device, True, row.group)
    return [one for one in every if one.name in options.settings]


def _check_settings(
    parser: argparse.ArgumentParser, asked: list[str] | None, rows: Iterable[Case], device: torch.device
) -> None:
    every = {one.name for row in rows for one in settings(device, True, row.group)}
    unknown = [name for name in asked or () if name not in every]
    if unknown:
        parser.error(f"`--settings` must be among {', '.join(sorted(every))}, got {', '.join(unknown)}.")


def _outputs(small: bool) -> int:
    """Output channels of the layers, but of those in sweeps, which keep their channels."""
    return 64 if small else 512


def _run(device: torch.device, options: argparse.Namespace, small: bool) -> dict[str, Any]:
    """What the numbers depend on."""
    cpu = f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "monai_crossd": monai_crossd.__version__,
        "python": platform.python_version(),
        "seed": options.seed,
        "repeats": options.repeats,
        "sizes": "small" if small else "full",
        "layer_outputs": _outputs(small),
        "compile": options.compile,
        "settings": ", ".join(options.settings or ["all"]),
        "shapes": " ".join(options.shapes),
        "competitors": ", ".join(options.competitors or ["all"]),
    }


if __name__ == "__main__":
    main()
