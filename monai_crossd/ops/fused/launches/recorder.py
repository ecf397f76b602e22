"""What a function does with tensors, seen while it runs: allocations, launches, and calls of torch's library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Place", "Recorder", "Step", "View"]

_ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty")


class Place(NamedTuple):
    """An address: the number of an input or of an allocation, and bytes behind its first."""

    buffer: int
    offset: int


class View(NamedTuple):
    """How a tensor reads what lies at its place."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Step(NamedTuple):
    """A launch, or without a grid a call."""

    function: Any  # a compiled kernel, that in Triton's interpreter, or what is called with tensors
    grid: tuple[int, ...] | None
    args: list[Any]
    places: list[tuple[int, Place]]  # which arguments are tensors
    views: list[View]  # of those


class Recorder(TorchDispatchMode):
    """Sees every allocation, launch and call, and whether anything else happens to a tensor."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = inputs
        self.buffers = [(t.data_ptr(), _extent(t)) for t in inputs]
        self.steps: list[Step] = []
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
        """Run and note a launch."""
        compiled = self._run(lambda: kernel[grid](*args, **named))
        names = kernel.arg_names
        values = list(args) + [named[name] for name in names[len(args) :]]
        if any(isinstance(value, Tensor) for name, value in named.items() if name not in names):
            self.repeatable = False
        self._note(compiled or kernel, (*grid, 1, 1)[:3], values)

    def call(self, function: Callable[..., None], tensors: tuple[Tensor, ...]) -> None:
        """Run and note a call."""
        self._run(lambda: function(*tensors))
        if any(t.numel() == 0 for t in tensors):
            self.repeatable = False
        self._note(function, None, list(tensors))

    def _run(self, run: Callable[[], Any]) -> Any:
        self._launching = True
        try:
            return run()
        finally:
            self._launching = False

    def _note(self, function: Any, grid: tuple[int, ...] | None, values: list[Any]) -> None:
        places, views = [], []
        for at, value in enumerate(values):
            if isinstance(value, Tensor):
                place = self.place(value)
                if place is None:
                    self.repeatable = False
                    return
                places.append((at, place))
                views.append(View(value.dtype, tuple(value.shape), value.stride()))
        self.steps.append(Step(function, grid, values, places, views))

    def place(self, tensor: Tensor) -> Place | None:
        """Where a tensor lies: in itself if an input, else in the newest allocation or in the input around it."""
        for number, one in enumerate(self.inputs):
            if one is tensor:
                return Place(number, 0)
        address, inputs = tensor.data_ptr(), len(self.inputs)
        if tensor.numel() == 0:
            return Place(-1, 0)
        for number in (*range(len(self.buffers) - 1, inputs - 1, -1), *range(inputs)):
            start, size = self.buffers[number]
            if start <= address < start + size:
                return Place(number, address - start)
        return None

    def results(self, outputs: Sequence[Tensor]) -> list[tuple[int, Tensor]] | None:
        """The buffer of every output, or ``None`` where this cannot be repeated."""
        inputs, results = len(self.inputs), []
        for output in outputs:
            number = next((i for i, one in enumerate(self.inputs) if one is output), None)
            place = Place(number, 0) if number is not None else self.place(output)
            if place is None or place.offset or (place.buffer < inputs and number is None and output.numel()):
                return None
            results.append((place.buffer, output))
        made = [buffer for buffer, _ in results if buffer >= inputs]
        return results if self.repeatable and len({*made}) == len(made) else None


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
