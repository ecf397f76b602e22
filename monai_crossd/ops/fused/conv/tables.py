"""Block sizes of the kernels in ``kernels`` and ``boxes_kernels``, for Hopper.

They are the best that were found on an H200 for the layers of ResNet-18 at 32 and 128 images. They do not ask the
device, so that sums keep their order from one machine to another.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["ANY", "BOXES", "LAUNCHES", "MIX", "ROWS", "UNMIX", "Boxes", "Launch", "arithmetic"]


def arithmetic(dtype: torch.dtype) -> str:
    """What the tables go by, of what is multiplied: float32 is so by itself alone, as IEEE 754 has it."""
    return "ieee" if dtype == torch.float32 else "half"


class Launch(NamedTuple):
    """Tile of a program: rows, columns and length of a step of its matrix product; then warps and pipeline stages."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


class Boxes(NamedTuple):
    """Output channels, pixels of a box, and input channels of a tile; then programs for each multiprocessor, which take
    one tile after the other; then warps and pipeline stages.
    """

    block_m: int
    pixels: int
    block_c: int
    programs: int
    num_warps: int
    num_stages: int


# {(kernel, arithmetic): rows of (most channels, most pixels, launch)}; the first that fits is taken, and blocks larger
# than the layer shrink to it. conv: block_m output channels, block_n pixels, block_k channels to sum over. wgrad:
# block_m output channels, block_n input channels, block_k pixels.
ANY = 1 << 62
LAUNCHES: dict[tuple[str, str], list[tuple[int, int, Launch]]] = {
    ("conv", "half"): [
        (ANY, 64, Launch(64, 64, 64, 4, 4)),  # one tile holds an image: parallelism must come from channels
        (32, ANY, Launch(32, 128, 32, 4, 4)),  # few channels: wide in pixels, which are then the rows
        (64, ANY, Launch(64, 128, 64, 4, 3)),  # as high as one instruction of a warpgroup, 72 KB in flight
        (ANY, 1024, Launch(128, 128, 64, 8, 3)),  # 28x28 and less: two programs for each multiprocessor
        (ANY, ANY, Launch(128, 256, 64, 8, 3)),  # most operations for each byte loaded: 0.82 of the time of 128x128
    ],
    ("conv", "ieee"): [(ANY, ANY, Launch(64, 64, 16, 4, 2))],  # no tensor cores: the tile must fit in registers
    ("wgrad", "half"): [
        (64, ANY, Launch(64, 64, 64, 4, 3)),  # small products: taps and images give the parallelism
        (ANY, 64, Launch(128, 128, 64, 8, 1)),  # one step is the whole sum, bound by writing dk: no pipeline
        (ANY, 256, Launch(128, 128, 32, 8, 4)),  # 14x14 pixels take seven steps, of 64 four, or 256
        (ANY, ANY, Launch(128, 128, 64, 8, 3)),  # most operations for each byte loaded
    ],
    ("wgrad", "ieee"): [(ANY, ANY, Launch(64, 64, 16, 4, 2))],  # no tensor cores: the tile must fit in registers
}
# conv of what can be read by boxes: rows of (most output channels, most pixels, most output channels of all images,
# boxes), none where that is no faster
BOXES: list[tuple[int, int, int, Boxes | None]] = [
    (64, ANY, ANY, Boxes(64, 128, 64, 2, 4, 4)),
    (ANY, 64, ANY, None),  # bound by k
    (ANY, 256, 66 * 128, Boxes(128, 128, 64, 1, 4, 4)),  # two tiles hold an image: one would leave half a GPU idle
    (ANY, 256, ANY, Boxes(128, 256, 64, 1, 8, 4)),  # a tile holds all pixels, and reads k once
    (ANY, 16384, ANY, Boxes(128, 128, 64, 2, 4, 3)),
    (ANY, ANY, ANY, Boxes(128, 256, 64, 1, 8, 3)),  # most operations for each byte read
]
# wgrad of images of few channels, whose columns are rows of a kernel: few columns, so that dy is read seldom
ROWS = {"half": Launch(64, 128, 64, 4, 3), "ieee": Launch(64, 64, 16, 4, 2)}
# rows of U, none, rows of M at a time; longer rows than those of K = 3 take fewer of U
MIX = {"half": Launch(128, 0, 64, 4, 3), "ieee": Launch(64, 0, 16, 4, 2)}
# rows of U for dU, rows of U for dM, rows of dk at a time; {(kernel, bytes of a value of dk): rows of (most rows of U,
# launch)}
UNMIX: dict[tuple[str, int], list[tuple[int, Launch]]] = {
    ("u", 2): [
        (64 * 64, Launch(32, 0, 128, 4, 3)),
        (128 * 128, Launch(128, 0, 64, 4, 3)),
        (ANY, Launch(256, 0, 32, 4, 4)),
    ],
    ("u", 4): [
        (64 * 64, Launch(32, 0, 64, 4, 3)),
        (128 * 128, Launch(128, 0, 64, 4, 3)),
        (ANY, Launch(256, 0, 32, 4, 3)),
    ],
    ("m", 2): [(ANY, Launch(0, 64, 128, 4, 3))],
    ("m", 4): [(ANY, Launch(0, 64, 128, 8, 2))],
}
