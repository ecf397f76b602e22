"""How long a call keeps a GPU busy, by torch's profiler: what is left of its time is the processor's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["busy", "kernel_milliseconds"]

CALLS = 4
_KINDS = ("kernel", "gpu_memcpy", "gpu_memset")


def kernel_milliseconds(run: Callable[[], None], device: torch.device) -> float:
    """Milliseconds of the kernels and copies of one call, added up, the mean of four calls in a row."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(CALLS):
            run()
        torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        found.export_chrome_trace(str(file))
        return busy(json.loads(file.read_text(encoding="utf-8"))) / CALLS


def busy(trace: dict[str, Any]) -> float:
    """Milliseconds of all that a GPU did in a trace of torch's profiler, whose events last microseconds."""
    return sum(event["dur"] for event in trace["traceEvents"] if event.get("cat") in _KINDS) / 1e3
