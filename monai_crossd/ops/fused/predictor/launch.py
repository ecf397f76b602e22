"""Launches of the predictor's kernels: tiles and grids; all but what they write is allocated here.

``kernels`` has the equations and says what is moved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..launches.replay import launch
from ..sizes import cdiv, precision
from . import backward_kernels, planes_kernels
from . import kernels as forward_kernels

__all__ = ["Predictor", "Running", "empty_grads", "shape_h", "write_gradients", "write_pool"]

# Launches, for Hopper. They do not ask the device, so that sums keep their order from one machine to another.
BLOCK_P = 64  # pixels of a tile: 256 bytes of float32 in a row, and the 64 rows of Hopper's warp-group product
THREADS = 64  # pixels of a tile where a thread takes one with all its hidden values, and threads of a program
PLANES = 4  # up to so many channels ``W1 x`` is such a case, with more a product of matrices
PLANES_THREADS = 128  # there,
PLANES_SUMS = 16  # but for sums of gradients, for which a warp takes so many: two threads share what a pixel needs
BLOCK_P_MIN = 16  # pixels of a tile where images are small: the fewest rows of any matrix unit
BLOCK_C = 64  # channels of a tile: with 64 pixels 16 KiB of float32, two or three of which in flight hide the latency
BLOCK_T = 256  # partial sums read at once: a few numbers a thread
BLOCK_PARTS = 128  # partial sums of ``dW1`` read at once,
BLOCK_PARTS_C = 32  # each of so many channels: lines of 128 bytes
MULTIPROCESSORS = 132  # of an H100 SXM or H200: tiles shrink while there are fewer programs than that
PROGRAMS = 528  # four a multiprocessor: one wave, or two where registers allow two; more only adds partial sums
NUM_WARPS = 4  # one warp group, which a product of 64 rows takes
NUM_STAGES = 3  # tiles in flight: 48 KiB of float32, so that four programs share a multiprocessor's 228 KiB
CAST_BLOCK_C, CAST_NUM_STAGES = 128, 1  # where ``x`` is cast: it is stored from the registers that it is loaded into
NUM_STAGES_DX = {2: 2, 4: 3}  # where ``dx`` is written, by bytes of a value
RECOMPUTE = 2  # up to this many times the hidden channels in ``C``, reading ``x`` again is cheaper than storing ``h``


class Predictor(NamedTuple):
    """Parameters of a predictor, all contiguous."""

    w1: Tensor  # (N, C, 1, 1)
    b1: Tensor  # (N,)
    gamma: Tensor  # (N,)
    beta: Tensor  # (N,)
    w2: Tensor  # (4, N, 1, 1)
    b2: Tensor  # (4,)


class Running(NamedTuple):
    """Running statistics: what evaluation normalizes by, and what training moves by ``momentum``."""

    mean: Tensor  # (N,)
    var: Tensor  # (N,)
    batches: Tensor  # (), int64
    momentum: float | None = None  # None for one over the number of batches, counted by the caller


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _interpreted() -> bool:
    return not isinstance(forward_kernels.pool_kernel, forward_kernels.triton.JITFunction)


def _recomputes(in_channels: int, hidden: int) -> bool:
    """Whether ``h`` is computed from ``x`` wherever it is needed."""
    return in_channels <= min(RECOMPUTE * hidden, BLOCK_C)


def _place(x: Tensor) -> tuple[int, int, int, int, bool]:
    """Strides of ``x`` and whether one of them, the last, steps through all pixels of an image."""
    _, _, height, width = x.shape
    sb, sc, sh, sw = x.stride()
    if width == 1:
        return sb, sc, sh, sh, True
    return sb, sc, sh, sw, height == 1 or sh == width * sw


def _sizes(x: Tensor, hidden: int, cast: bool = False) -> dict[str, Any]:
    """What all kernels that may read ``x``, or ``cast`` it, are told about it."""
    _, channels, height, width = x.shape
    sb, sc, sh, sw, flat = _place(x)
    last = max((channels - 1) * sc + (height - 1) * sh + (width - 1) * sw, height * width * max(hidden, channels))
    planes = channels if channels <= PLANES and not cast else 0
    most, stages = (CAST_BLOCK_C, CAST_NUM_STAGES) if cast else (BLOCK_C, NUM_STAGES)
    block_c = _power(channels) if planes else min(most, max(16, _power(channels)))
    return {
        "P": height * width, "C": channels, "W": width, "N": hidden, "sb": sb, "sc": sc, "sh": sh, "sw": sw,
        "PLANES": planes, "FLAT": flat, "WIDE": last >= 2**31, "BLOCK_C": block_c, "BLOCK_N": max(16, _power(hidden)),
        "PRECISION": _precision(x.dtype), "num_stages": stages,
    }  # fmt: skip


def _precision(dtype: torch.dtype) -> str:
    """How the kernels multiply float32, in words of ``triton.language.dot``."""
    return "ieee" if _interpreted() else "tf32" if precision(dtype) == "tf32" else "tf32x3"


def _block(images: int, pixels: int, threads: int = 0, blocks: int = 1) -> dict[str, int]:
    """Pixels of a tile, fewer where an image has fewer or where the tiles would not fill the device, and warps.

    ``threads`` is for kernels whose threads take a pixel each: so many at most.
    """
    most, least = (threads, min(threads, 32)) if threads else (BLOCK_P, BLOCK_P_MIN)
    block = min(most, max(least, _power(pixels)))
    while block > least and images * cdiv(pixels, block) * blocks < MULTIPROCESSORS:
        block //= 2
    return {"BLOCK_P": block, "num_warps": max(1, block // 32) if threads else NUM_WARPS}


def _tiles(images: int, pixels: int, threads: int = 0, blocks: int = 1, programs: int | None = None) -> dict[str, int]:
    """Tiles of all images, dealt in runs to at most so many programs, ``PROGRAMS`` by default."""
    block = _block(images, pixels, threads, blocks)
    tiles = cdiv(pixels, block["BLOCK_P"])
    run = cdiv(images * tiles * blocks, programs or PROGRAMS)
    return {"tiles": tiles, "all_tiles": images * tiles, "run": run, **block}


def _threads(sizes: dict[str, Any], load: bool = False) -> int:
    """Most pixels of a tile in a kernel whose threads take one each, else none; ``load`` where it loads ``h``."""
    return PLANES_THREADS if sizes.get("PLANES") else THREADS if load else 0


def _pool_hidden(
    x: Tensor, read: tuple[Tensor, Tensor | None], args: tuple[Tensor, ...], r: Tensor, soft: Tensor, hidden: int,
    modes: dict[str, Any],
) -> None:  # fmt: skip
    """From ``h`` or ``read`` to ``r``; ``args`` are what ``pool_kernel`` gets between that and sums."""
    batch, pixels, sizes = x.shape[0], x.shape[2] * x.shape[3], _sizes(x, hidden, read[1] is not None)
    block = _block(batch, pixels, _threads(sizes, modes["LOAD"]))
    tiles = cdiv(pixels, block["BLOCK_P"])
    run = cdiv(tiles, max(1, PROGRAMS // batch))
    programs = cdiv(tiles, run)
    part = x.new_empty((batch, programs, 3, 4) if programs > 1 else (0,), dtype=torch.float32)
    launch(
        forward_kernels.pool_kernel, (batch * programs,), *read, *args, part, r, soft, B=batch, tiles=tiles, run=run,
        programs=programs, LAST=programs == 1, **modes, **block, **sizes,
    )  # fmt: skip
    if programs > 1:
        launch(forward_kernels.combine_kernel, (batch, 4), part, args[7], r, soft, batch, programs, BLOCK_T=BLOCK_T)


def shape_h(x: Tensor, hidden: int, keep: bool) -> tuple[int, ...]:
    """Shape of the hidden values that are kept for backward."""
    kept = keep and not _recomputes(x.shape[1], hidden)
    return (x.shape[0], hidden, x.shape[2] * x.shape[3]) if kept else (0,)


def write_pool(
    x: Tensor, net: Predictor, running: Running | None, training: bool, eps: float, keep: bool,
    h: Tensor, stats: Tensor, soft: Tensor, r: Tensor, source: Tensor | None = None,
) -> None:  # fmt: skip
    """Write the four numbers of every image and what backward needs.

    Args:
        x: ``(B, C, H, W)`` of any strides; written where there is a ``source``.
        net: parameters.
        running: statistics that evaluation normalizes by; where training gets them it moves them.
        training: normalize with the batch's statistics.
        eps: of BatchNorm2d.
        keep: whether backward will come.
        h: of ``shape_h``, written where it is not empty.
        stats: ``(4, N)``, in evaluation ``(2, N)``.
        soft: ``(3, B, 4)``.
        r: ``(B, 4)``.
        source: in the shape and strides of ``x``, what that is to be cast from; ``None`` where it is known.
    """
    hidden, read = net.w1.shape[0], (x, None) if source is None else (source, x)
    load = training and not _recomputes(x.shape[1], hidden)
    mean, var = (stats, stats) if running is None else running[:2]
    with torch.cuda.device_of(x):
        values = x.new_empty(shape_h(x, hidden, True)) if load and not keep else h
        if training:
            sizes = _sizes(x, hidden, source is not None)
            tiles = _tiles(len(x), x.shape[2] * x.shape[3], _threads(sizes))
            parts = cdiv(tiles["all_tiles"], tiles["run"])
            part = x.new_empty((1 + 2 * hidden, parts), dtype=torch.float32)
            launch(
                forward_kernels.project_kernel, (parts,), *read, net.w1, values, part, STORE=load, **tiles, **sizes,
            )  # fmt: skip
            read = (x, None)
            batches, momentum = (stats, None) if running is None else running[2:]
            launch(
                forward_kernels.statistics_kernel, (hidden,), part, net.b1, stats, mean, var, batches, hidden, parts,
                eps, 0.0 if momentum is None else momentum, TRACK=running is not None, CUMULATIVE=momentum is None,
                BLOCK_T=BLOCK_T,
            )  # fmt: skip
        args = (net.w1, net.b1, mean, var, *net[2:], values, stats)
        modes = {"EVAL": not training, "LOAD": load, "STORE": not training and h.numel() > 0, "eps": eps}
        _pool_hidden(x, read, args, r, soft, hidden, modes)


def empty_grads(net: Predictor) -> Predictor:
    """Where gradients to the parameters go."""
    return Predictor(*(torch.empty_like(t, memory_format=torch.contiguous_format) for t in net))


def write_gradients(
    dr: Tensor, x: Tensor, h: Tensor, stats: Tensor, soft: Tensor, net: Predictor, training: bool,
    grads: Predictor, dx: Tensor | None, add: bool,
) -> None:  # fmt: skip
    """Write gradients to the parameters and to ``x``.

    Args:
        dr: gradient of ``r``, ``(B, 4)``, float32, contiguous.
        x: as in forward, and so what is not named here.
        h: see ``x``.
        stats: see ``x``.
        soft: see ``x``.
        net: see ``x``.
        training: see ``x``.
        grads: written.
        dx: in the shape of ``x`` and of any strides, written; ``None`` where it is not needed.
        add: whether to add to what ``dx`` holds.
    """
    (hidden, channels), images, pixels = net.w1.shape[:2], x.shape[0], x.shape[2] * x.shape[3]
    load, sizes = not _recomputes(channels, hidden), _sizes(x, hidden)
    written, place = x if dx is None else dx, (0, 0, 0, 0, True) if dx is None else _place(dx)
    to = {**dict(zip(("db", "dc", "dh_stride", "dw_stride", "FLAT_DX"), place, strict=True)), "ADD": add}
    if sizes.pop("PLANES"):
        return _write_planes_gradients(dr, x, stats, soft, net, training, grads, dx, to, sizes)
    with torch.cuda.device_of(x):
        tiles = _tiles(images, pixels, _threads(sizes, load))
        parts = cdiv(tiles["all_tiles"], tiles["run"])
        part = x.new_empty((6, hidden, parts), dtype=torch.float32)
        sums = x.new_empty((2, hidden), dtype=torch.float32)
        dy = x.new_empty((images, hidden, pixels), dtype=torch.float32)  # rounded once, as dh
        launch(
            backward_kernels.parameter_sums_kernel, (parts,), x, net.w1, h, dr, stats, soft, net.gamma, net.beta,
            net.w2, dy, part, B=images, LOAD=load, **tiles, **sizes,
        )  # fmt: skip
        launch(
            backward_kernels.parameter_gradient_kernel, (hidden,), part, dr, stats, net.gamma, sums, *grads[1:],
            images, hidden, parts, TRAINING=training, BLOCK_T=BLOCK_T,
        )  # fmt: skip
        blocks = cdiv(channels, sizes["BLOCK_C"])
        tiles = _tiles(images, pixels, blocks=blocks)
        parts = cdiv(tiles["all_tiles"], tiles["run"])
        part = x.new_empty((parts, hidden, channels), dtype=torch.float32)
        sum_x, sum_dh = (x.new_empty((parts, count), dtype=torch.float32) for count in (channels, hidden))
        sizes["num_stages"] = NUM_STAGES_DX[x.element_size()]
        launch(
            backward_kernels.input_gradient_kernel, (parts * blocks,), x, net.w1, h, dy, stats, net.gamma, sums,
            written, part, sum_x, sum_dh, B=images, blocks=blocks, TRAINING=training, LOAD=load,
            NEED_DX=dx is not None, SCALE=x.dtype == torch.float16, **to, **tiles, **sizes,
        )  # fmt: skip
        launch(
            backward_kernels.weight_gradient_kernel, (hidden, cdiv(channels, BLOCK_PARTS_C)), part, sum_x, sum_dh,
            grads.w1, images, pixels, channels, hidden, parts, TRAINING=training, BLOCK_T=BLOCK_PARTS,
            BLOCK_C=BLOCK_PARTS_C, num_warps=2 * NUM_WARPS,
        )  # fmt: skip


def _write_planes_gradients(
    dr: Tensor, x: Tensor, stats: Tensor, soft: Tensor, net: Predictor, training: bool, grads: Predictor,
    dx: Tensor | None, to: dict[str, Any], sizes: dict[str, Any],
) -> None:  # fmt: skip
    """The same for images of few channels; ``to`` and ``sizes`` are what kernels are told of ``dx`` and ``x``."""
    (hidden, channels), images, pixels = net.w1.shape[:2], x.shape[0], x.shape[2] * x.shape[3]
    del sizes["PRECISION"]
    sizes["BLOCK_C"] = _power(channels + 1)  # a channel of ones comes behind
    with torch.cuda.device_of(x):
        tiles = _tiles(images, pixels, PLANES_SUMS, programs=2 * PROGRAMS)
        parts = cdiv(tiles["all_tiles"], tiles["run"])
        part = x.new_empty((5 + channels, hidden, parts), dtype=torch.float32)
        moments = x.new_empty((1 + channels, 1 + channels, parts), dtype=torch.float32)
        sums = x.new_empty((2, hidden), dtype=torch.float32)
        predictor = (dr, stats, soft, net.gamma, net.beta, net.w2)
        launch(
            planes_kernels.planes_sums_kernel, (parts,), x, net.w1, *predictor, part, moments, B=images, **tiles,
            **sizes,
        )  # fmt: skip
        known = {name: sizes[name] for name in ("P", "C", "W", "N", "sc", "sh", "sw", "FLAT", "BLOCK_C")}
        launch(
            planes_kernels.planes_parameter_gradient_kernel, (hidden,), x, net.w1, part, moments, dr, stats, net.gamma,
            sums, *grads, B=images, parts=parts, TRAINING=training, BLOCK_T=4 * BLOCK_T, **known,
        )  # fmt: skip
        if dx is not None:
            tiles = _tiles(images, pixels, PLANES_THREADS)
            parts = cdiv(tiles["all_tiles"], tiles["run"])
            launch(
                planes_kernels.planes_input_gradient_kernel, (parts,), x, net.w1, *predictor, sums, dx, B=images,
                TRAINING=training, **to, **tiles, **sizes,
            )  # fmt: skip
