"""What repeats a recorded function: allocates its results and one block for all temporary tensors, and launches."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .graphs import Graphs
from .recorder import Recorder, Step, View

__all__ = ["Plan"]

BLOCK = 256  # bytes: temporary tensors start at multiples of it, as torch's do


class _Patch(NamedTuple):
    """The argument that lies in a buffer, so many bytes behind its first."""

    at: int
    buffer: int
    offset: int
    view: View


class Plan:
    """Recorded steps. Buffers are numbered: inputs, results, and last the block of all temporary tensors."""

    def __init__(self, recorder: Recorder, results: list[tuple[int, Tensor]]) -> None:
        inputs = len(recorder.inputs)
        fresh = [(buffer, output) for buffer, output in results if buffer >= inputs or buffer < 0]
        numbers = {number: number for number in range(inputs)}
        numbers |= {buffer: inputs + i for i, (buffer, _) in enumerate(fresh) if buffer >= 0}
        self.device = recorder.inputs[0].device
        self.places = len({start for start, _ in recorder.buffers[:inputs]})
        self.on_gpu = self.device.type == "cuda"
        self.graphs = Graphs(calls=any(step.grid is None for step in recorder.steps))
        self.empty = _allocation(self.device)
        self.fresh = [(tuple(output.shape), output.stride(), output.dtype) for _, output in fresh]
        order = iter(range(inputs, inputs + len(fresh)))
        self.results = [next(order) if buffer >= inputs or buffer < 0 else buffer for buffer, _ in results]
        self.all_fresh = len(fresh) == len(results)
        offsets, block = _packed(recorder, set(numbers))
        self.block = ((block,), (1,), torch.uint8) if block else None
        self.steps: list[tuple[Any, tuple[int, ...] | None, tuple[Any, ...], list[Any], list[_Patch]]] = []
        for step in recorder.steps:
            patches = []
            for (at, (buffer, offset)), view in zip(step.places, step.views, strict=True):
                step.args[at] = 0
                if buffer in numbers:
                    patches.append(_Patch(at, numbers[buffer], offset, view))
                elif buffer >= 0:
                    patches.append(_Patch(at, inputs + len(fresh), offsets[buffer] + offset, view))
            self.steps.append((*_prepared(step), step.args, patches))

    def __call__(self, inputs: Sequence[Tensor], addresses: list[int]) -> list[Tensor]:
        """The results for other inputs, at ``addresses``."""
        if self.on_gpu and torch._C._cuda_getDevice() != self.device.index:
            with torch.cuda.device(self.device):
                return self(inputs, addresses)
        empty = self.empty
        fresh = [empty(*one) for one in self.fresh]
        addresses += map(Tensor.data_ptr, fresh)
        tensors = [*inputs, *fresh]
        if self.block is not None:
            block = empty(*self.block)
            addresses.append(block.data_ptr())
            tensors.append(block)
        if self.on_gpu:
            self.graphs.launch(tuple(addresses), self.device, partial(self._launch, addresses, tensors))
        else:
            self._interpret(addresses, tensors)
        return fresh if self.all_fresh else [tensors[number] for number in self.results]

    def _launch(self, addresses: list[int], tensors: list[Tensor], stream: int) -> None:
        for run, grid, front, args, patches in self.steps:
            if grid is None:
                run(*(_viewed(tensors, patch) for patch in patches))
                continue
            args = args.copy()
            for at, buffer, offset, _ in patches:
                args[at] = addresses[buffer] + offset
            run(*grid, stream, *front, *args)

    def _interpret(self, addresses: list[int], tensors: list[Tensor]) -> None:
        """The same in Triton's interpreter, which asks for tensors."""
        for kernel, grid, _, args, patches in self.steps:
            if grid is None:
                kernel(*(_viewed(tensors, patch) for patch in patches))
                continue
            args = args.copy()
            for at, buffer, offset, (dtype, *_) in patches:
                address = addresses[buffer] + offset
                args[at] = torch.frombuffer((ctypes.c_char * 16).from_address(address), dtype=dtype) if address else 0
            kernel[grid](*args)


def _prepared(step: Step) -> tuple[Any, tuple[int, ...] | None, tuple[Any, ...]]:
    """What is run, the grid, and what stands before the arguments."""
    if step.grid is not None and hasattr(step.function, "packed_metadata"):
        front = (step.function.function, step.function.packed_metadata, None, None, None)
        return step.function.run, step.grid, front
    return step.function, step.grid, ()


def _viewed(tensors: list[Tensor], patch: _Patch) -> Tensor:
    """What a call is given."""
    dtype, shape, stride = patch.view
    buffer = tensors[patch.buffer].detach()
    buffer = buffer if buffer.dtype == dtype else buffer.view(dtype)
    return buffer.as_strided(shape, stride, buffer.storage_offset() + patch.offset // dtype.itemsize)


def _allocation(device: torch.device) -> Callable[..., Tensor]:
    """Makes a tensor of a size, strides and a dtype on a device, the current one of its kind: what Inductor calls where
    torch has it, which takes half the time.
    """
    quick = getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}", None)
    return quick or (lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype, device=device))


def _packed(recorder: Recorder, kept: set[int]) -> tuple[dict[int, int], int]:
    """Offsets of temporary tensors in one block, in which those never used at the same time may overlap; its size."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in enumerate(recorder.steps):
        for _, (buffer, _) in step.places:
            if buffer >= 0 and buffer not in kept:
                first.setdefault(buffer, number)
                last[buffer] = number
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
