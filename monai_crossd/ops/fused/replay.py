"""Launches of Triton kernels, recorded once and then repeated without the Python between them.

A small layer costs on a GPU what the processor needs to launch it: sizes, tables, temporary tensors and Triton's own
preparation of every launch take several times as long as the kernels. A function that allocates tensors, launches
kernels by :func:`launch` and does nothing else does the same for all inputs of the same shapes, up to addresses, so
:func:`repeated` records it with the first inputs and from then on allocates its results, one block for its temporary
tensors, and launches. A function that turns out to do more, or whose inputs lie at odd addresses, is called as it is.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial, reduce
from itertools import pairwise
from operator import or_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .graphs import Graphs

__all__ = ["forget", "launch", "remembered", "repeated"]

ALIGNMENT = 16  # bytes: what Triton compiles a kernel for, told by the pointer it first gets
BLOCK = 256  # bytes: temporary tensors start at multiples of it, as torch's do
PLANS = 2048  # most that are kept; an entry is a few kilobytes

_ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty")
_local = threading.local()
_plans: dict[Hashable, _Plan | None] = {}
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


def repeated(key: Hashable, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Sequence[Tensor]:
    """``function(*inputs)``, from its record where there is one.

    Args:
        key: tells calls apart that differ in shapes, strides, dtypes, devices, or in anything else that ``function``
            asks for.
        function: allocates tensors, launches kernels, and returns tensors of its own or inputs.
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
    with _Recorder(inputs) as recorder:
        _local.recorder = recorder
        try:
            outputs = function(*inputs)
        finally:
            _local.recorder = None
    if len(_plans) >= PLANS:
        _plans.clear()
    _plans[key] = recorder.plan(outputs)
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


def _extent(tensor: Tensor) -> int:
    """Bytes from a tensor's first value to its last."""
    if tensor.numel() == 0:
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.itemsize


def _overlap(buffers: Sequence[tuple[int, int]]) -> bool:
    """Whether some that begin apart overlap: what lies there could then not be told apart."""
    found = sorted({*buffers})
    return any(a < b < a + size for (a, size), (b, _) in pairwise(found))


class _Place(NamedTuple):
    """An address: the number of an input or of an allocation, and bytes behind its first."""

    buffer: int
    offset: int


class _Launch(NamedTuple):
    kernel: Any  # compiled, or the function in Triton's interpreter
    grid: tuple[int, ...]
    args: list[Any]
    places: list[tuple[int, _Place]]  # which arguments are addresses
    dtypes: list[torch.dtype]  # of those


class _Recorder(TorchDispatchMode):
    """Sees every allocation and every launch, and whether anything else happens to a tensor."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = inputs
        self.buffers = [(t.data_ptr(), _extent(t)) for t in inputs]
        self.launches: list[_Launch] = []
        self.repeatable, self._launching = not _overlap(self.buffers), False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._launching:
            return result
        if func.overloadpacket.__name__ in _ALLOCATIONS:
            self.buffers.append((result.data_ptr(), result.untyped_storage().nbytes()))
        elif not func.is_view:
            self.repeatable = False
        return result

    def launch(self, kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._launching = True
        try:
            compiled = kernel[grid](*args, **named)
        finally:
            self._launching = False
        names = kernel.arg_names
        values = list(args) + [named[name] for name in names[len(args) :]]
        at = [i for i, value in enumerate(values) if isinstance(value, Tensor)]
        places = [self._place(values[i]) for i in at]
        if None in places or len(at) < sum(isinstance(value, Tensor) for value in named.values()):
            self.repeatable = False
        dtypes = [values[i].dtype for i in at]
        grid = (*grid, 1, 1)[:3]
        self.launches.append(_Launch(compiled or kernel, grid, values, list(zip(at, places, strict=True)), dtypes))  # type: ignore[arg-type]

    def _place(self, tensor: Tensor) -> _Place | None:
        """Where a tensor lies: in itself if an input, else in the newest allocation or in the input around it."""
        for number, one in enumerate(self.inputs):
            if one is tensor:
                return _Place(number, 0)
        address, inputs = tensor.data_ptr(), len(self.inputs)
        if tensor.numel() == 0:
            return _Place(-1, 0)
        for number in (*range(len(self.buffers) - 1, inputs - 1, -1), *range(inputs)):
            start, size = self.buffers[number]
            if start <= address < start + size:
                return _Place(number, address - start)
        return None

    def plan(self, outputs: Sequence[Tensor]) -> _Plan | None:
        """What repeats this, or ``None`` where it cannot be repeated."""
        inputs, results = len(self.inputs), []
        for output in outputs:
            number = next((i for i, one in enumerate(self.inputs) if one is output), None)
            place = _Place(number, 0) if number is not None else self._place(output)
            if place is None or place.offset or (place.buffer < inputs and number is None and output.numel()):
                return None
            results.append((place.buffer, output))
        if not self.repeatable or len({buffer for buffer, _ in results if buffer >= inputs}) < sum(
            buffer >= inputs for buffer, _ in results
        ):
            return None
        return _Plan(self, results)


class _Patch(NamedTuple):
    """The argument that becomes the address of a buffer, and what lies there."""

    at: int
    buffer: int
    offset: int
    dtype: torch.dtype


class _Plan:
    """Recorded launches. Buffers are numbered: inputs, results, and last the block of all temporary tensors."""

    def __init__(self, recorder: _Recorder, results: list[tuple[int, Tensor]]) -> None:
        inputs = len(recorder.inputs)
        fresh = [(buffer, output) for buffer, output in results if buffer >= inputs or buffer < 0]
        numbers = {number: number for number in range(inputs)}
        numbers |= {buffer: inputs + i for i, (buffer, _) in enumerate(fresh) if buffer >= 0}
        self.device = recorder.inputs[0].device
        self.places = len({start for start, _ in recorder.buffers[:inputs]})
        self.on_gpu = self.device.type == "cuda"
        self.graphs = Graphs()
        self.empty = _allocation(self.device)
        self.fresh = [(tuple(output.shape), output.stride(), output.dtype) for _, output in fresh]
        order = iter(range(inputs, inputs + len(fresh)))
        self.results = [next(order) if buffer >= inputs or buffer < 0 else buffer for buffer, _ in results]
        self.all_fresh = len(fresh) == len(results)
        offsets, block = _packed(recorder, set(numbers))
        self.block = ((block,), (1,), torch.uint8)
        self.steps: list[tuple[Any, tuple[int, ...], tuple[Any, ...], list[Any], list[_Patch]]] = []
        for compiled, grid, args, places, dtypes in recorder.launches:
            patches = []
            for (at, (buffer, offset)), dtype in zip(places, dtypes, strict=True):
                args[at] = 0
                if buffer in numbers:
                    patches.append(_Patch(at, numbers[buffer], offset, dtype))
                elif buffer >= 0:
                    patches.append(_Patch(at, inputs + len(fresh), offsets[buffer] + offset, dtype))
            if hasattr(compiled, "packed_metadata"):
                front = (compiled.function, compiled.packed_metadata, None, None, None)
                self.steps.append((compiled.run, grid, front, args, patches))
            else:
                self.steps.append((compiled, grid, (), args, patches))

    def __call__(self, inputs: Sequence[Tensor], addresses: list[int]) -> list[Tensor]:
        if self.on_gpu and torch._C._cuda_getDevice() != self.device.index:
            with torch.cuda.device(self.device):
                return self(inputs, addresses)
        empty = self.empty
        fresh = [empty(*one) for one in self.fresh]
        addresses += map(Tensor.data_ptr, fresh)
        block = empty(*self.block)
        addresses.append(block.data_ptr())
        if self.on_gpu:
            self.graphs.launch(tuple(addresses), self.device, partial(self._launch, addresses))
        else:
            self._interpret(addresses)
        if self.all_fresh:
            return fresh
        tensors = [*inputs, *fresh]
        return [tensors[number] for number in self.results]

    def _launch(self, addresses: list[int], stream: int) -> None:
        for run, grid, front, args, patches in self.steps:
            args = args.copy()
            for at, buffer, offset, _ in patches:
                args[at] = addresses[buffer] + offset
            run(*grid, stream, *front, *args)

    def _interpret(self, addresses: list[int]) -> None:
        """The same in Triton's interpreter, which asks for tensors."""
        for kernel, grid, _, args, patches in self.steps:
            args = args.copy()
            for at, buffer, offset, dtype in patches:
                address = addresses[buffer] + offset
                args[at] = torch.frombuffer((ctypes.c_char * 16).from_address(address), dtype=dtype) if address else 0
            kernel[grid](*args)


def _allocation(device: torch.device) -> Callable[..., Tensor]:
    """Makes a tensor of a size, strides and a dtype on a device, the current one of its kind: what Inductor calls where
    torch has it, which takes half the time.
    """
    quick = getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}", None)
    return quick or (lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype, device=device))


def _packed(recorder: _Recorder, kept: set[int]) -> tuple[dict[int, int], int]:
    """Offsets of temporary tensors in one block, in which those never used at the same time may overlap; its size."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for step, made in enumerate(recorder.launches):
        for _, (buffer, _) in made.places:
            if buffer >= 0 and buffer not in kept:
                first.setdefault(buffer, step)
                last[buffer] = step
    offsets: dict[int, int] = {}
    total = 0
    for buffer in sorted(first, key=lambda number: -recorder.buffers[number][1]):  # large ones first
        size = -(-recorder.buffers[buffer][1] // BLOCK) * BLOCK
        taken = sorted(
            (offsets[other], -(-recorder.buffers[other][1] // BLOCK) * BLOCK)
            for other in offsets
            if first[other] <= last[buffer] and first[buffer] <= last[other]
        )
        offset = 0
        for start, length in taken:
            if offset + size <= start:
                break
            offset = max(offset, start + length)
        offsets[buffer] = offset
        total = max(total, offset + size)
    return offsets, total
