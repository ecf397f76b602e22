"""The processes that ``torchrun`` started, or the one that runs alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

__all__ = [
    "end_together",
    "from_first",
    "gather",
    "join_processes",
    "leave_processes",
    "local_device",
    "rank",
    "wait_for_all",
    "world_size",
]

T = TypeVar("T")

_PATIENCE = timedelta(days=30)  # one process may be through with its cases long before the others
_POLL = 0.2  # s


def join_processes() -> None:
    """Connect the processes of ``torchrun``; do nothing in a process that runs alone.

    They exchange lists of cases and no tensors, so the backend is gloo, with and without GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_PATIENCE)


def leave_processes() -> None:
    """Undo :func:`join_processes`."""
    if dist.is_initialized():
        dist.destroy_process_group()


def local_device() -> torch.device:
    """The GPU of this process, shared where there are more processes than GPUs; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, in all processes."""
    if world_size() == 1:
        return make()
    made = [make() if rank() == 0 else None]
    dist.broadcast_object_list(made, src=0)
    return made[0]  # type: ignore[return-value]


def gather(part: T) -> list[T]:
    """What each process has, in all processes."""
    parts = [part] * world_size()
    if len(parts) > 1:
        dist.all_gather_object(parts, part)
    return parts


def end_together(reason: str) -> None:
    """End all processes if there is a reason; the first one prints it and returns 1, the others 0.

    Raises:
        SystemExit: if ``reason`` is not empty.
    """
    if reason:
        status = 0 if rank() else reason  # torchrun ends all as soon as one fails
        leave_processes()
        raise SystemExit(status)


def wait_for_all(meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait until every process is here, and call ``meanwhile`` now and then."""
    if world_size() == 1:
        return
    arrival = dist.barrier(async_op=True)
    while not arrival.is_completed():
        meanwhile()
        time.sleep(_POLL)
    arrival.wait()
