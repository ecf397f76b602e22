"""The predictor up to its pooled numbers as one differentiable operator on Triton kernels.

``fused_pool`` is ``softmax_pool(conv2(relu(bn(conv1(x)))))`` of ``ShiftPredictor``. ``triton_predictor`` has the
equations and says what is moved. The operators ``monai_crossd::predictor_pool`` and
``monai_crossd::predictor_pool_backward`` are functional, so ``torch.compile(fullgraph=True)``, activation checkpointing
and CUDA graphs take them as they are.

There is no autocast rule, on purpose: ``torch.library.register_autocast`` casts every argument, the running variance
too, to one dtype. Under autocast the operator takes ``x`` in the dtype in which it comes and casts ``W1`` to it inside
of the kernel; all else is float32, and every gradient has the dtype of its argument.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_crossd.ops import availability
from monai_crossd.ops import triton_predictor as forward_kernels
from monai_crossd.ops import triton_predictor_backward as backward_kernels

__all__ = ["available", "fused_pool", "pool", "pool_gradients"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Launches, for Hopper. They do not ask the device, so that sums keep their order from one machine to another.
BLOCK_P = 64  # pixels of a tile: 256 bytes of float32 in a row, and the 64 rows of Hopper's warp-group product
BLOCK_P_MIN = 16  # pixels of a tile where images are small: the fewest rows of any matrix unit
BLOCK_C = 64  # channels of a tile: with 64 pixels 16 KiB of float32, two or three of which in flight hide the latency
BLOCK_T = 256  # partial sums read at once: a few numbers a thread
BLOCK_PARTS = 32  # partial sums of ``dW1`` read at once, each of a block of channels
MULTIPROCESSORS = 132  # of an H100 SXM or H200: tiles shrink while there are fewer programs than that
PROGRAMS = 528  # four a multiprocessor: one wave, or two where registers allow two; more only adds partial sums
NUM_WARPS = 4  # one warp group, which a product of 64 rows takes
NUM_STAGES = 3  # tiles in flight: 48 KiB of float32, so that four programs share a multiprocessor's 228 KiB
NUM_STAGES_DX = 2  # where ``dx`` is written: two programs fit by registers, and a third stage spills some of them
RECOMPUTE = 2  # up to this many times the hidden channels in ``C``, reading ``x`` again is cheaper than storing ``h``


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _power(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _interpreted() -> bool:
    return not isinstance(forward_kernels.pool_kernel, forward_kernels.triton.JITFunction)


def available(x: Tensor) -> bool:
    """Whether the kernels can take ``x``: Triton is there, ``x`` on CUDA or Triton interpreted, the dtype supported."""
    return availability.available(x) and x.dtype in DTYPES


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


def _sizes(x: Tensor, hidden: int) -> dict[str, Any]:
    """What all kernels that may read ``x`` are told about it."""
    _, channels, height, width = x.shape
    sb, sc, sh, sw, flat = _place(x)
    last = max((channels - 1) * sc + (height - 1) * sh + (width - 1) * sw, height * width * max(hidden, channels))
    block_c = min(BLOCK_C, max(16, _power(channels)))
    return {
        "P": height * width, "C": channels, "W": width, "N": hidden, "sb": sb, "sc": sc, "sh": sh, "sw": sw,
        "FLAT": flat, "WIDE": last >= 2**31, "BLOCK_C": block_c, "BLOCK_N": max(16, _power(hidden)),
        "PRECISION": "ieee" if _interpreted() else "tf32x3", "num_warps": NUM_WARPS, "num_stages": NUM_STAGES,
    }  # fmt: skip


def _block_p(images: int, pixels: int, blocks: int = 1) -> int:
    """Pixels of a tile: fewer where an image has fewer or where the tiles would not fill the device."""
    block = min(BLOCK_P, max(BLOCK_P_MIN, _power(pixels)))
    while block > BLOCK_P_MIN and images * _ceil(pixels, block) * blocks < MULTIPROCESSORS:
        block //= 2
    return block


def _tiles(images: int, pixels: int, blocks: int = 1) -> dict[str, int]:
    """Tiles of all images, dealt in runs to at most ``PROGRAMS`` programs."""
    block = _block_p(images, pixels, blocks)
    tiles = _ceil(pixels, block)
    run = _ceil(images * tiles * blocks, PROGRAMS)
    return {"tiles": tiles, "all_tiles": images * tiles, "run": run, "BLOCK_P": block}


def _pool_hidden(x: Tensor, args: tuple[Tensor, ...], hidden: int, modes: dict[str, Any]) -> Tensor:
    """From ``h`` or ``x`` to ``r``; ``args`` are the pointers of ``pool_kernel`` between ``x`` and the partial sums."""
    images, pixels = x.shape[0], x.shape[2] * x.shape[3]
    block = _block_p(images, pixels)
    tiles = _ceil(pixels, block)
    run = _ceil(tiles, max(1, PROGRAMS // images))
    programs = _ceil(tiles, run)
    *args_in, soft = args
    r = x.new_empty((images, 4), dtype=torch.float32)
    part = x.new_empty((images, programs, 3, 4) if programs > 1 else (0,), dtype=torch.float32)
    forward_kernels.pool_kernel[(images * programs,)](
        x, *args_in, part, r, soft, B=images, tiles=tiles, run=run, programs=programs, LAST=programs == 1,
        BLOCK_P=block, **modes, **_sizes(x, hidden),
    )  # fmt: skip
    if programs > 1:
        forward_kernels.combine_kernel[(images,)](part, args_in[7], r, soft, images, programs, BLOCK_T=BLOCK_T)
    return r


def _shape_h(x: Tensor, hidden: int, keep: bool) -> tuple[int, ...]:
    kept = keep and not _recomputes(x.shape[1], hidden)
    return (x.shape[0], x.shape[2] * x.shape[3], hidden) if kept else (0,)


def pool(
    x: Tensor, w1: Tensor, b1: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor, training: bool, eps: float, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``r``, and for backward ``h`` where it is kept, the statistics (2 or 4, N) and those of the softmax (3, B, 4)."""
    hidden, images = w1.shape[0], x.shape[0]
    h = x.new_empty(_shape_h(x, hidden, keep))
    stats = x.new_empty((4 if training else 2, hidden), dtype=torch.float32)
    soft = x.new_empty((3, images, 4), dtype=torch.float32)
    if x.numel() == 0:
        return x.new_zeros((images, 4), dtype=torch.float32), h, stats, soft
    w1, b1, gamma, beta, w2, b2 = (t.contiguous() for t in (w1, b1, gamma, beta, w2, b2))
    mean, var = (stats, stats) if running_mean is None or running_var is None else (running_mean, running_var)
    load = training and not _recomputes(x.shape[1], hidden)
    with torch.cuda.device_of(x):
        source = x.new_empty(_shape_h(x, hidden, True)) if load and not keep else h
        if training:
            tiles = _tiles(images, x.shape[2] * x.shape[3])
            parts = _ceil(tiles["all_tiles"], tiles["run"])
            part = x.new_empty((1 + 2 * hidden, parts), dtype=torch.float32)
            forward_kernels.project_kernel[(parts,)](x, w1, source, part, STORE=load, **tiles, **_sizes(x, hidden))
            forward_kernels.statistics_kernel[(hidden,)](part, b1, stats, hidden, parts, eps, BLOCK_T=BLOCK_T)
        args = (w1, b1, mean, var, gamma, beta, w2, b2, source, stats, soft)
        modes = {"EVAL": not training, "LOAD": load, "STORE": not training and h.numel() > 0, "eps": eps}
        return _pool_hidden(x, args, hidden, modes), h, stats, soft


_pool = torch.library.custom_op("monai_crossd::predictor_pool", pool, mutates_args=())


@_pool.register_fake
def _(x, w1, b1, running_mean, running_var, gamma, beta, w2, b2, training, eps, keep):  # type: ignore[no-untyped-def]
    r = x.new_empty((x.shape[0], 4), dtype=torch.float32)
    stats = x.new_empty((4 if training else 2, w1.shape[0]), dtype=torch.float32)
    return r, x.new_empty(_shape_h(x, w1.shape[0], keep)), stats, x.new_empty((3, x.shape[0], 4), dtype=torch.float32)


def pool_gradients(
    dr: Tensor, x: Tensor, h: Tensor, stats: Tensor, soft: Tensor, w1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor,
    training: bool, need_dx: bool = True, into: Tensor | None = None,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the predictor.

    Args:
        dr: gradient of ``r``, ``(B, 4)``.
        x: the input, ``(B, C, H, W)``.
        h: as ``monai_crossd::predictor_pool`` returned it, and so ``stats`` and ``soft``.
        stats: see ``h``.
        soft: see ``h``.
        w1: ``(N, C, 1, 1)``.
        gamma: ``(N,)``.
        beta: ``(N,)``.
        w2: ``(4, N, 1, 1)``.
        training: whether the batch's statistics were used.
        need_dx: without it ``dx`` is empty.
        into: a tensor of the shape and any strides and dtype to which ``dx`` is added in place of a new one.

    Returns:
        ``dx, dw1, db1, dgamma, dbeta, dw2, db2``; all but ``dx`` have the dtype of their parameter, ``db1`` and ``db2``
        those of ``w1`` and ``w2``.
    """
    (hidden, channels), images, pixels = w1.shape[:2], x.shape[0], x.shape[2] * x.shape[3]
    dx = into if into is not None else torch.empty_like(x) if need_dx else x.new_empty(0)
    grads = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (w1[:, 0, 0, 0], gamma, beta, w2)]
    dw1, db2 = torch.empty_like(w1, memory_format=torch.contiguous_format), w2.new_empty(4)
    if x.numel() == 0:
        return [dx, *(t.zero_() for t in (dw1, *grads, db2))]
    dr, w1_c, gamma, beta, w2 = (t.contiguous() for t in (dr.float(), w1, gamma, beta, w2))
    load = not _recomputes(channels, hidden)
    sizes = _sizes(x, hidden)
    blocks = _ceil(channels, sizes["BLOCK_C"])
    args = (x, w1_c, h, dr, stats, soft, gamma, beta, w2)
    with torch.cuda.device_of(x):
        tiles = _tiles(images, pixels)
        parts = _ceil(tiles["all_tiles"], tiles["run"])
        part = x.new_empty((6, hidden, parts), dtype=torch.float32)
        sums = x.new_empty((2, hidden), dtype=torch.float32)
        backward_kernels.parameter_sums_kernel[(parts,)](*args, part, B=images, LOAD=load, **tiles, **sizes)
        backward_kernels.parameter_gradient_kernel[(hidden,)](
            part, dr, stats, gamma, sums, *grads, db2, images, hidden, parts, TRAINING=training, BLOCK_T=BLOCK_T
        )
        tiles = _tiles(images, pixels, blocks)
        parts = _ceil(tiles["all_tiles"], tiles["run"])
        part = x.new_empty((parts, hidden, channels), dtype=torch.float32)
        sum_x, sum_dh = (x.new_empty((parts, count), dtype=torch.float32) for count in (channels, hidden))
        db, dc, dh, dw, flat = _place(dx) if dx.dim() == 4 else (0, 0, 0, 0, True)
        backward_kernels.input_gradient_kernel[(parts * blocks,)](
            *args, sums, dx, part, sum_x, sum_dh, B=images, db=db, dc=dc, dh_stride=dh, dw_stride=dw, FLAT_DX=flat,
            blocks=blocks, TRAINING=training, LOAD=load, NEED_DX=need_dx, ADD=into is not None,
            SCALE=x.dtype == torch.float16, **tiles, **sizes | {"num_stages": NUM_STAGES_DX},
        )  # fmt: skip
        backward_kernels.weight_gradient_kernel[(hidden, blocks)](
            part, sum_x, sum_dh, dw1, images, pixels, channels, hidden, parts,
            TRAINING=training, BLOCK_T=BLOCK_PARTS, BLOCK_C=sizes["BLOCK_C"],
        )  # fmt: skip
    return [dx, dw1, *grads, db2]


@torch.library.custom_op("monai_crossd::predictor_pool_backward", mutates_args=())
def _pool_backward(
    dr: Tensor, x: Tensor, h: Tensor, stats: Tensor, soft: Tensor, w1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor,
    training: bool, need_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return tuple(pool_gradients(dr, x, h, stats, soft, w1, gamma, beta, w2, training, need_dx))  # type: ignore


@_pool_backward.register_fake
def _(dr, x, h, stats, soft, w1, gamma, beta, w2, training, need_dx):  # type: ignore[no-untyped-def]
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    vectors = [t.new_empty(t.shape[0]) for t in (w1, gamma, beta)]
    return dx, w1.new_empty(w1.shape), *vectors, w2.new_empty(w2.shape), w2.new_empty(4)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, w1, _, _, _, gamma, beta, w2, _, ctx.training, _, _ = inputs
    _, h, stats, soft = output
    ctx.save_for_backward(x, h, stats, soft, w1, gamma, beta, w2)
    ctx.mark_non_differentiable(h, stats, soft)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dr: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if dr is None:
        return (None,) * 12
    dx, dw1, db1, *affine, dw2, db2 = _pool_backward(dr, *ctx.saved_tensors, ctx.training, ctx.needs_input_grad[0])
    return dx if ctx.needs_input_grad[0] else None, dw1, db1, None, None, *affine, dw2, db2, None, None, None


def _refuse(ctx: Any, *_: Any) -> None:
    raise RuntimeError("The fused predictor has no second derivative; use the plain modules for one.")


_pool.register_autograd(_backward, setup_context=_save)
_pool_backward.register_autograd(_refuse)


def fused_pool(
    x: Tensor, w1: Tensor, b1: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor, training: bool, momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """The predictor's four numbers of every image; ``rotation_to_shift`` turns them into its shift.

    Args:
        x: ``(B, C, H, W)`` of any strides, in float32, bfloat16 or float16.
        w1: weight of the first convolution, ``(N, C, 1, 1)``; made for ``N = 16``.
        b1: its bias, ``(N,)``.
        running_mean: of BatchNorm2d, ``(N,)``; in training it is updated in place. ``None`` where none is tracked.
        running_var: likewise.
        gamma: weight of BatchNorm2d, ``(N,)``.
        beta: bias of BatchNorm2d, ``(N,)``.
        w2: weight of the second convolution, ``(4, N, 1, 1)``.
        b2: its bias, ``(4,)``.
        training: normalize with the batch's statistics.
        momentum: of the running statistics; for BatchNorm2d's ``None`` give one over the number of batches so far.
        eps: of BatchNorm2d.

    Returns:
        ``r`` of shape ``(B, 4)`` in float32.

    Raises:
        RuntimeError: if the kernels cannot take ``x``.
        ValueError: if statistics are missing or one value per channel is to be normalized by itself.
    """
    check(x, running_mean, running_var, training)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w1, b1, gamma, beta, w2, b2))
    r, _, stats, _ = _pool(x, w1, b1, running_mean, running_var, gamma, beta, w2, b2, training, eps, keep)
    update_statistics(running_mean, running_var, stats, training and x.numel() > 0, momentum)
    return r


def check(x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, training: bool) -> None:
    """Refuse what the kernels cannot take."""
    if not available(x):
        message = f"`x` must be float32, bfloat16 or float16 on CUDA with Triton, got {x.dtype} on {x.device}"
        raise RuntimeError(message + "; use the plain modules.")
    if not training and (running_mean is None or running_var is None):
        raise ValueError("`running_mean` and `running_var` must be given in eval mode, got None; set `training=True`.")
    if training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
        raise ValueError(f"`x` must have more than one value per channel in training, got shape {tuple(x.shape)}.")


def update_statistics(
    running_mean: Tensor | None, running_var: Tensor | None, stats: Tensor, training: bool, momentum: float
) -> None:
    """Move the running statistics towards those of the batch, in place."""
    if training and running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(stats[2].to(running_mean.dtype), momentum)
            running_var.lerp_(stats[3].to(running_var.dtype), momentum)
