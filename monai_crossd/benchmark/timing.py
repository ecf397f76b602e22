"""How it is timed: competitors in turn within one run, medians with spread, device events on a GPU."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .cases import Case

__all__ = ["Setting", "Timing", "settings", "time_case"]


@dataclass(frozen=True)
class Setting:
    """Arithmetic and memory format of all competitors.

    Attributes:
        name: for the table.
        autocast: to bfloat16, in channels_last.
        compiled: through torch.compile.
    """

    name: str
    autocast: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Timing:
    """One competitor's time for one piece of work.

    Attributes:
        milliseconds: median over the repeats.
        low: 10th percentile.
        high: 90th percentile.
        mebibytes: peak of device memory with the module's own, None on a CPU.
        error: why there is no time.
    """

    group: str
    shape: str
    setting: str
    work: str
    competitor: str
    milliseconds: float | None = None
    low: float | None = None
    high: float | None = None
    mebibytes: float | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def settings(device: torch.device, compiled: bool) -> list[Setting]:
    """TF32 and bfloat16 on a GPU, float32 on a CPU; compiled ones besides on request."""
    plain = [Setting("float32")] if device.type == "cpu" else [Setting("TF32"), Setting("bf16 channels_last", True)]
    more = [Setting(f"{one.name} compiled", one.autocast, True) for one in plain] if compiled else []
    return plain + more


def time_case(case: Case, setting: Setting, device: torch.device, repeats: int) -> list[Timing]:
    """Time forward (evaluation) and forward with backward (training) of every competitor.

    Args:
        case: the row.
        setting: arithmetic.
        device: where.
        repeats: of every work and competitor, after a warm-up.

    Returns:
        A timing for every work and competitor; out of memory and other failures are errors in their place.
    """
    timings = [
        Timing(case.group, case.label, setting.name, work, name, error=reason)
        for work in ("forward", "training")
        for name, reason in case.missing.items()
    ]
    for work in ("forward", "training"):
        runs: dict[str, Callable[[], None]] = {}
        failed: dict[str, str] = {}
        memory: dict[str, float | None] = {}
        for name, build in case.competitors.items():
            with _failures(failed, name):
                _check_memory(case.needs.get(name, 0), device)
                run = _prepared(build(), case, setting, device, work)
                for _ in range(3 if device.type == "cuda" else 1):
                    run()
                memory[name] = _peak(run, device)
                runs[name] = run
            _release(device)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                times[name].append(_once(run, device))
        for name in case.competitors:
            row = Timing(case.group, case.label, setting.name, work, name, error=failed.get(name, ""))
            if name in times:
                low, middle, high = _spread(times[name])
                row = Timing(
                    case.group, case.label, setting.name, work, name, middle, low, high, memory[name], row.error
                )
            timings.append(row)
        del runs
        _release(device)
    return timings


def _prepared(net: nn.Module, case: Case, setting: Setting, device: torch.device, work: str) -> Callable[[], None]:
    """Everything made outside of what is timed."""
    x = torch.randn(case.shape, device=device)
    net = net.to(device).train(work == "training")
    if setting.autocast:
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        x = x.to(memory_format=last)
        if x.dim() == 4:
            net = net.to(memory_format=last)  # type: ignore[call-overload]
    x.requires_grad_(work == "training" and not case.steps)  # a layer within a network hands its gradient on
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6) if case.steps else None
    call = torch.compile(net) if setting.compiled else net

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=setting.autocast):
            return call(x)

    def training() -> None:
        net.zero_grad(set_to_none=True)
        x.grad = None
        y = forward()
        y.backward(torch.ones_like(y))
        if optimizer is not None:
            optimizer.step()

    def evaluation() -> None:
        with torch.no_grad():
            forward()

    return training if work == "training" else evaluation


def _once(run: Callable[[], None], device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def _peak(run: Callable[[], None], device: torch.device) -> float | None:
    """Peak of memory in MiB over what was there before, the module's parameters not counted twice."""
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _spread(times: list[float]) -> tuple[float, float, float]:
    """10th percentile, median, 90th percentile."""
    ordered = sorted(times)
    last = len(ordered) - 1
    return ordered[round(0.1 * last)], statistics.median(ordered), ordered[round(0.9 * last)]


def _check_memory(needed: int, device: torch.device) -> None:
    """On a CPU the system would end the process, where a GPU raises an error."""
    if device.type == "cpu" and needed and hasattr(os, "sysconf"):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > free:
            raise MemoryError


@contextlib.contextmanager
def _failures(failed: dict[str, str], name: str) -> Iterator[None]:
    """Turn what goes wrong with one competitor into its error."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)
        failed[name] = "out of memory" if full else f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
