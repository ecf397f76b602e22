"""How it is timed: competitors in turn within one run, medians with spread, device events on a GPU."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cases import Build, Case
from .kernels import kernel_milliseconds

__all__ = ["Setting", "Timing", "settings", "time_case"]


@dataclass(frozen=True)
class Setting:
    """Arithmetic and memory format of all competitors.

    Attributes:
        name: for the table.
        autocast: to bfloat16.
        compiled: mode of torch.compile, empty without it.
        channels_last: channels vary fastest in memory.
        tf32: the GPU may round what it multiplies to TF32.
    """

    name: str
    autocast: bool = False
    compiled: str = ""
    channels_last: bool = False
    tf32: bool = True


ROUNDS = 4  # untimed, on a GPU: CUDA graphs come with the third call at the same addresses
CALLS = 4  # in a row, at most, on a GPU: the processor prepares one while the GPU is busy with another,
ENOUGH = 100.0  # ms; longer ones hide that by themselves
MODES = (("compiled", "default"), ("reduce-overhead", "reduce-overhead"))  # of torch.compile, the first on a CPU too
LONG, FEW = (1000.0, 20.0), 2  # ms, and times the first of a row: who takes more than both is timed so often, no more
_GPU = (
    Setting("float32", tf32=False),
    Setting("float32 channels_last", channels_last=True, tf32=False),
    Setting("TF32"),
    Setting("TF32 channels_last", channels_last=True),
    Setting("bf16", autocast=True),
    Setting("bf16 channels_last", autocast=True, channels_last=True),
)


@dataclass(frozen=True)
class Timing:
    """One competitor's time for one piece of work.

    Attributes:
        milliseconds: median over the repeats.
        low: 10th percentile.
        high: 90th percentile.
        mebibytes: peak of device memory with the module's and the input's own, None on a CPU and where graphs of
            torch.compile keep it.
        kernel_milliseconds: of a GPU's kernels alone, None unless they are asked for.
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
    kernel_milliseconds: float | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def settings(device: torch.device, compiled: bool, group: str = "layers2d") -> list[Setting]:
    """Arithmetic for the rows of a group, float32 on a CPU; compiled besides on request, on a GPU in two modes.

    On a GPU layers take float32, TF32 and bfloat16 in both memory formats, networks all but float32, and sweeps, for
    a plot that can be read, TF32 and bfloat16 in the format that suits each.
    """
    if device.type == "cpu":
        plain = [Setting("float32")]
    elif group in ("layers2d", "layers3d"):
        plain = list(_GPU)
    elif group in ("networks", "volumes"):
        plain = [one for one in _GPU if one.tf32]
    else:
        plain = [one for one in _GPU if one.name in ("TF32", "bf16 channels_last")]
    modes = MODES if device.type == "cuda" else MODES[:1]
    more = [(one, name, mode) for one in plain for name, mode in modes] if compiled else []
    return plain + [replace(one, name=f"{one.name} {name}", compiled=mode) for one, name, mode in more]


def time_case(case: Case, setting: Setting, device: torch.device, repeats: int, kernels: bool = False) -> list[Timing]:
    """Time forward (evaluation) and forward with backward (training) of every competitor.

    Args:
        case: the row.
        setting: arithmetic.
        device: where.
        repeats: of every work and competitor, after a warm-up; two of those that take very long.
        kernels: whether to time a GPU's kernels alone besides.

    Returns:
        A timing for every work and competitor; out of memory and other failures are errors in their place.
    """
    timings = [
        Timing(case.group, case.label, setting.name, work, name, error=reason)
        for work in ("forward", "training")
        for name, reason in case.missing.items()
    ]
    with _arithmetic(setting):
        for work in ("forward", "training"):
            timings += _in_turn(case, setting, device, work, repeats, kernels)
            if device.type == "cuda" or case.steps:
                _release(device)
    return timings


def _in_turn(
    case: Case, setting: Setting, device: torch.device, work: str, repeats: int, kernels: bool
) -> list[Timing]:
    """One work of all competitors: warmed up one after the other, then in rounds of one call each, which are timed.

    On a GPU the first rounds are not: what remembers addresses, as CUDA graphs do, meets those of all the others. And
    short calls are timed several in a row, as a training loop makes them. Long ones beside a short first competitor are
    timed twice.
    """
    runs: dict[str, Callable[[], None]] = {}
    failed: dict[str, str] = {}
    memory: dict[str, float | None] = {}
    for name, build in case.competitors.items():
        with _failures(failed, name):
            _check_memory(case.needs.get(name, 0), device)
            runs[name], memory[name] = _warmed_up(build, case, setting, device, work)
        if name in failed:
            _release(device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    calls = dict.fromkeys(runs, 1)
    first = next(iter(times.values()), [])
    untimed = ROUNDS if device.type == "cuda" else 0
    for i in range(untimed + repeats):
        for name in list(runs):
            if i >= untimed + FEW and times[name][-1] > max(LONG[0], LONG[1] * min(first, default=0.0)):
                continue
            with _failures(failed, name):
                times[name].append(_once(runs[name], device, calls[name]))
                if i == untimed - 1:
                    calls[name] = max(1, min(CALLS, int(ENOUGH / times[name][-1])))
            if name in failed:  # its memory goes to the others
                del runs[name]
                _release(device)
    timings = []
    for name in case.competitors:
        row = Timing(case.group, case.label, setting.name, work, name, error=failed.get(name, ""))
        if name in runs:
            low, middle, high = _spread(times[name][untimed:])
            row = replace(row, milliseconds=middle, low=low, high=high, mebibytes=memory[name])
            if kernels:
                row = replace(row, kernel_milliseconds=kernel_milliseconds(runs[name], device))
        timings.append(row)
    return timings


def _warmed_up(
    build: Build, case: Case, setting: Setting, device: torch.device, work: str
) -> tuple[Callable[[], None], float | None]:
    """What to time, and the memory it takes; nothing is left of it where this fails."""
    others = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    run = _prepared(build(), case, setting, device, work)
    for _ in range(3 if device.type == "cuda" else 1):
        run()
    counted = device.type == "cuda" and setting.compiled != "reduce-overhead"  # whose graphs keep memory uncounted
    return run, _peak(run, device, others) if counted else None


def _prepared(net: nn.Module, case: Case, setting: Setting, device: torch.device, work: str) -> Callable[[], None]:
    """Everything made outside of what is timed."""
    x = torch.randn(case.shape, device=device)
    net = net.to(device).train(work == "training")
    if setting.channels_last:
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        x = x.to(memory_format=last)
        for parameter in net.parameters():  # a knowledge base has 5 axes on images too, which `net.to` refuses
            if parameter.dim() == x.dim():
                parameter.data = parameter.data.to(memory_format=last)
    x.requires_grad_(work == "training" and not case.first)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6) if case.steps else None
    call = torch.compile(net, mode=setting.compiled) if setting.compiled else net

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=setting.autocast):
            return call(x)

    def training() -> None:  # at its end memory is what it was before, or else every competitor would move the others
        y = forward()
        if optimizer is None:
            y.backward(torch.ones_like(y))
        else:
            F.cross_entropy(y.float(), labels).backward()
            optimizer.step()
        forget_gradients(set_to_none=True)
        x.grad = None

    def evaluation() -> None:
        with torch.no_grad():
            forward()

    forget_gradients = net.zero_grad if optimizer is None else optimizer.zero_grad  # as MONAI's trainers do
    labels = torch.zeros(len(x), dtype=torch.long, device=device)
    return training if work == "training" else evaluation


def _once(run: Callable[[], None], device: torch.device, calls: int = 1) -> float:
    """Milliseconds of a call; on a GPU of so many in a row."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / calls


def _peak(run: Callable[[], None], device: torch.device, others: int) -> float:
    """Peak of memory in MiB of one call on a GPU, without the bytes that other competitors hold."""
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - others) / 2**20


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
def _arithmetic(setting: Setting) -> Iterator[None]:
    """The backends' switches, put back afterwards; every compiled case compiles anew, for its own sizes."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    cudnn = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting.tf32
    torch.backends.cudnn.benchmark = True
    if setting.compiled:
        torch.compiler.reset()
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = cudnn


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
