"""Convolution that reads boxes of pixels by the GPU's tensor memory accelerator, which Hopper has.

It takes a box by one instruction, zeros around an image among it, where the kernels of ``kernels`` compute an
address and a mask for every 16 bytes; so programs wait for products alone.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor

from ..availability import INTERPRETED, available
from ..images.halves import Scaled
from ..launches.replay import call
from ..sizes import block, cdiv
from .boxes_kernels import box_conv_kernel
from .tables import Boxes

__all__ = ["convolve_boxes", "suits_boxes"]

BYTES = 16  # what strides and addresses must be multiples of
MULTIPROCESSORS = 132


def suits_boxes(x: Tensor, groups: int, stride: Sequence[int]) -> bool:
    """Whether images ``(B, C, H, W)`` are read by boxes: 16 bits, channels side by side, every pixel, one group."""
    if x.element_size() != 2 or groups > 1 or max(stride) > 1 or x.stride(1) != 1 or x.numel() == 0:
        return False
    steps = (*(step for axis, step in enumerate(x.stride()) if axis != 1), x.shape[1])
    aligned = not any(step * x.element_size() % BYTES for step in steps) and x.data_ptr() % BYTES == 0
    return aligned and min(steps) > 0 and available(x) and _described(x.device)


@cache
def _described(device: torch.device) -> bool:
    """Whether Triton knows descriptors, and the GPU is one that block sizes were measured for."""
    if importlib.util.find_spec("triton.tools.tensor_descriptor") is None:
        return False
    return INTERPRETED or (device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9)


def convolve_boxes(
    images: Scaled, kernels: Scaled, y: Tensor, padding: Sequence[int], dilation: Sequence[int], transposed: bool,
    boxes: Boxes,
) -> None:  # fmt: skip
    """Convolve every image with its own kernel and write into ``y``; arguments as of ``launch.convolve``.

    Args:
        images: such as :func:`suits_boxes` takes.
        kernels: see ``images``, and so what is not named here.
        y: see ``images``.
        padding: in pixels, per axis.
        dilation: in pixels, per axis.
        transposed: whether ``images`` are a gradient of the output, and ``y`` is that of the input.
        boxes: block sizes.
    """
    (x, x_factor), (k, k_factor) = images, kernels
    factors = () if x_factor is None or k_factor is None else (x_factor, k_factor)
    sign = -1 if transposed else 1
    geometry = (*(-sign * pad for pad in padding), *(sign * apart for apart in dilation))
    call(partial(_convolve, geometry, boxes), x, k, y, *factors)


def _convolve(geometry: Sequence[int], boxes: Boxes, x: Tensor, k: Tensor, y: Tensor, *factors: Tensor) -> None:
    from triton.tools.tensor_descriptor import TensorDescriptor

    (batch, red, *image), (rows, height, width), (sb, _, sh, sw) = x.shape, y.shape[1:], x.stride()
    block_m, block_c, box = block(boxes.block_m, rows), block(boxes.block_c, red), _box(boxes.pixels, height, width)
    of_x = TensorDescriptor(x, [batch, *image, red], [sb, sh, sw, 1], [1, *box, block_c])
    of_k = TensorDescriptor(k, [k.numel() // red, red], [red, 1], [block_m, block_c])
    tiles_m, tiles_h, tiles_w = cdiv(rows, block_m), cdiv(height, box[0]), cdiv(width, box[1])
    tiles = tiles_m * tiles_h * tiles_w * batch
    box_conv_kernel[(min(tiles, boxes.programs * MULTIPROCESSORS),)](
        of_x, of_k, *(factors or (None, None)), y, rows, red, tiles, tiles_m, tiles_w, height, width, *y.stride(),
        *geometry, K=math.isqrt(k.shape[1]), AHEAD=y.stride(1) == 1, BLOCK_H=box[0], BLOCK_W=box[1],
        BLOCK_M=block_m, BLOCK_C=block_c, num_warps=boxes.num_warps, num_stages=boxes.num_stages,
    )  # fmt: skip


@cache
def _box(pixels: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of so many pixels, powers of two, of which the fewest cover an image; the squarest such."""
    forms = [(pixels >> i, 1 << i) for i in range(pixels.bit_length())]
    return min(forms, key=lambda form: (cdiv(height, form[0]) * cdiv(width, form[1]), sum(form), -form[1]))
