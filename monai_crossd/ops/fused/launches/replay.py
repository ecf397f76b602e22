"""Launches of Triton kernels, recorded once and then repeated without the Python between them.

A small layer costs on a GPU what the processor needs to launch it: sizes, tables, temporary tensors and Triton's own
preparation of every launch take several times as long as the kernels. A function that allocates tensors, launches
kernels by :func:`launch`, calls torch's library by :func:`call` and does nothing else does the same for all inputs of
the same shapes, up to addresses, so :func:`repeated` records it with the first inputs (``recorder``) and from then on
allocates its results, one block for its temporary tensors, and launches (``plan``). A function that turns out to do
more, or whose inputs lie at odd addresses, is called as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from functools import reduce
from operator import or_
from typing import Any

from torch import Tensor

from .plan import Plan
from .recorder import Recorder

__all__ = ["call", "forget", "launch", "remembered", "repeated"]

ALIGNMENT = 16  # bytes: what Triton compiles a kernel for, told by the pointer it first gets
PLANS = 2048  # most that are kept; an entry is a few kilobytes

_local = threading.local()
_plans: dict[Hashable, Plan | None] = {}
_facts: dict[Hashable, Any] = {}


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **named: Any) -> None:
    """``kernel[grid](*args, **named)``, so that it can be repeated.

    Args:
        kernel: a function under ``triton.jit``.
        grid: programs per axis.
        args: as of the kernel; tensors are written and read at their addresses.
        named: arguments by name, constants, and options of the compiler.
    """
    recorder = getattr(_local, "recorder", None)
    if recorder is None:
        kernel[grid](*args, **named)
    else:
        recorder.launch(kernel, grid, args, named)


def call(function: Callable[..., None], *tensors: Tensor) -> None:
    """``function(*tensors)``, so that it can be repeated.

    Args:
        function: writes into some of the tensors, by torch's operators, and does the same for all of these shapes.
        tensors: all that it uses.
    """
    recorder = getattr(_local, "recorder", None)
    if recorder is None:
        function(*tensors)
    else:
        recorder.call(function, tensors)


def repeated(key: Hashable, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Sequence[Tensor]:
    """``function(*inputs)``, from its record where there is one.

    Args:
        key: tells calls apart that differ in shapes, strides, dtypes, devices, or in anything else that ``function``
            asks for.
        function: allocates tensors, launches kernels, calls the library, and returns tensors of its own or inputs.
        inputs: all tensors that it uses.

    Returns:
        What ``function`` returns.
    """
    addresses = [*map(Tensor.data_ptr, inputs)]
    if reduce(or_, addresses) % ALIGNMENT:
        return function(*inputs)
    plan = _plans.get(key)
    if plan is not None and plan.places != len({*addresses}):  # other inputs are one tensor than in the record
        key = (key, len({*addresses}))
        plan = _plans.get(key)
    if plan is not None:
        return plan(inputs, addresses)
    if key in _plans:  # what cannot be repeated
        return function(*inputs)
    with Recorder(inputs) as recorder:
        _local.recorder = recorder
        try:
            outputs = function(*inputs)
        finally:
            _local.recorder = None
    if len(_plans) >= PLANS:
        _plans.clear()
    results = recorder.results(outputs)
    _plans[key] = None if results is None else Plan(recorder, results)
    return outputs


def remembered(key: Hashable, find: Callable[[], Any]) -> Any:
    """``find()``, not ``None``, called once for a key: to choose by shapes takes as long as to launch a kernel."""
    found = _facts.get(key)
    if found is None:
        found = find()
        if len(_facts) >= PLANS:
            _facts.clear()
        _facts[key] = found
    return found


def forget() -> None:
    """Drop all records, after a constant that functions go by has changed."""
    _plans.clear()
    _facts.clear()
