"""``python -m monai_crossd.benchmark``: times, memory and ratios, written to a folder."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import monai
import torch
from tqdm import tqdm

import monai_crossd

from .cases import GROUPS, Case, cases, layer_case
from .report import write_report
from .timing import settings, time_case


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"`--repeats` must be positive, got {options.repeats}.")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("`--device cuda` needs a GPU that torch sees, got none; leave it out to run on the CPU.")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    small = device.type == "cpu" and not options.full
    rows = [row for name in options.shapes for row in _rows(parser, name, small, device)]
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    work = [(row, setting) for row in rows for setting in settings(device, options.compile)]
    timings = []
    for row, setting in tqdm(work, desc="Timing"):
        timings += time_case(row, setting, device, options.repeats)
    print(write_report(Path(options.output_dir), timings, _run(device, options, small)))
    print(f"Written to {options.output_dir}: benchmark.json, benchmark.md, benchmark.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monai_crossd.benchmark",
        description="Time Cross-D layers and networks beside plain ones, the literal form and ACSConv.",
    )
    shapes = f"groups ({', '.join(GROUPS)}) or shapes such as 8x64x128x128"
    parser.add_argument(
        "--shapes", nargs="+", default=list(GROUPS), metavar="SHAPE", help=f"{shapes}; default: all groups"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--repeats", type=int, default=5, help="of every measurement (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="full sizes on a CPU too")
    parser.add_argument("--compile", action="store_true", help="time torch.compile besides")
    parser.add_argument("--output_dir", default="bench_output")
    return parser


def _rows(parser: argparse.ArgumentParser, name: str, small: bool, device: torch.device) -> list[Case]:
    if name in GROUPS:
        return cases([name], small, device.type)
    sizes = name.split("x")
    if len(sizes) not in (4, 5) or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        parser.error(
            f"`--shapes` must be groups ({', '.join(GROUPS)}) or shapes such as 8x64x128x128 (images) or "
            f"4x64x16x64x64 (volumes), got {name!r}."
        )
    group = "layers2d" if len(sizes) == 4 else "layers3d"
    return [layer_case(group, tuple(int(size) for size in sizes), 64 if small else 512)]


def _run(device: torch.device, options: argparse.Namespace, small: bool) -> dict[str, Any]:
    """What the numbers depend on."""
    cpu = f"{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"
    return {
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "torch": torch.__version__,
        "monai": monai.__version__,
        "monai_crossd": monai_crossd.__version__,
        "python": platform.python_version(),
        "seed": options.seed,
        "repeats": options.repeats,
        "sizes": "small" if small else "full",
    }


if __name__ == "__main__":
    main()
