"""Triton kernels of the predictor's backward; ``kernels`` has the equations, the floors and the symbols.

``parameter_sums_kernel`` takes the sums over pixels that BatchNorm's backward needs before any ``dx`` is known,
``parameter_gradient_kernel`` adds them up, ``input_gradient_kernel`` writes ``dx`` and partial sums of ``dW1``, and
``weight_gradient_kernel`` adds those up. Images of few channels have ``planes_kernels``.
"""

from __future__ import annotations

from monai_crossd.ops.fused.language import jit, split_dot, tl
from monai_crossd.ops.fused.predictor.tiles import (
    COUNTS,
    _dot,
    _feature_gradients,
    _features,
    _hidden,
    _load_hidden,
    _of_image,
    _offsets,
    _part,
    _pixels,
    _project,
    _rows,
    _share,
    _store_bias_gradient,
    _store_hidden,
    _total,
    _vector,
)

__all__ = ["input_gradient_kernel", "parameter_gradient_kernel", "parameter_sums_kernel", "weight_gradient_kernel"]


@jit()
def _dot_of_pixels(a, b, PRECISION: tl.constexpr):
    """``a b`` summed over pixels."""
    if PRECISION == "tf32" and a.dtype == tl.float32:
        y = split_dot(a, b, tl.zeros((a.shape[0], b.shape[1]), tl.float32))
    else:
        y = _dot(a, b, PRECISION)
    return y


@jit("B", "all_tiles", counts=COUNTS)
def parameter_sums_kernel(
    x_ptr, w1_ptr, h_ptr, dr_ptr, stats_ptr, soft_ptr, gamma_ptr, beta_ptr, w2_ptr, dy_ptr, part_ptr,
    B, P, C, W, N, sb, sc, sh, sw, tiles, all_tiles, run,
    LOAD: tl.constexpr, FLAT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sums of ``dy``, ``dy xhat`` and the four rows of ``dW2`` over ``run`` tiles, (6, N, programs).

    Leaves ``dy`` for :func:`input_gradient_kernel`.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    n = tl.arange(0, BLOCK_N)
    mean, invstd = _vector(stats_ptr, n, N), _vector(stats_ptr + N, n, N)
    slope, beta, w2 = _vector(gamma_ptr, n, N) * invstd, _vector(beta_ptr, n, N), _rows(w2_ptr, n, N)
    none = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)  # pixels are added up at the end
    sum_dy, sum_dy_xhat, dw0, dw1, dw2, dw3 = none, none, none, none, none, none
    first, last, first_image, images = _share(program, run, tiles, all_tiles)
    for number in range(images):  # all from this number: sums of steps Triton 3.6 takes for constant
        first_tile, last_tile = _part(first, last, first_image + number, tiles)
        b = (first_image + number).to(tl.int64)
        image = _of_image(dr_ptr, soft_ptr, B, b)
        for tile in range(first_tile, last_tile):
            p = _pixels(tile, BLOCK_P, WIDE)
            if LOAD:
                h = _load_hidden(h_ptr + b * P * N, p, P, N, BLOCK_N)
            else:
                h = _project(
                    x_ptr, None, b * sb, w1_ptr, p, P, C, W, N, sc, sh, sw, 0, FLAT, WIDE, PRECISION,
                    BLOCK_P, BLOCK_C, BLOCK_N,
                )  # fmt: skip
            deviation, y, z, f = _features(h, mean, slope, beta, w2)
            df, dy = _feature_gradients(p < P, y, f, image, w2)
            _store_hidden(dy_ptr + b * P * N, dy, n, p, P, N)
            sum_dy += dy
            sum_dy_xhat += dy * deviation
            dw0 += df[0][None, :] * z
            dw1 += df[1][None, :] * z
            dw2 += df[2][None, :] * z
            dw3 += df[3][None, :] * z
    part, every = part_ptr + n * programs + program, N * programs
    tl.store(part, tl.sum(sum_dy, axis=1), mask=n < N)
    tl.store(part + every, tl.sum(sum_dy_xhat, axis=1) * invstd, mask=n < N)
    tl.store(part + 2 * every, tl.sum(dw0, axis=1), mask=n < N)
    tl.store(part + 3 * every, tl.sum(dw1, axis=1), mask=n < N)
    tl.store(part + 4 * every, tl.sum(dw2, axis=1), mask=n < N)
    tl.store(part + 5 * every, tl.sum(dw3, axis=1), mask=n < N)


@jit("B", "parts")
def parameter_gradient_kernel(
    part_ptr, dr_ptr, stats_ptr, gamma_ptr, sums_ptr, db1_ptr, dgamma_ptr, dbeta_ptr, dw2_ptr, db2_ptr,
    B, N, parts, TRAINING: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """One hidden channel: the partial sums added up, and all gradients but those of ``W1`` and ``x``."""
    n, k = tl.program_id(0), tl.arange(0, 8)
    sums = _total(part_ptr, k * N + n, k < 6, parts, BLOCK_T)  # dy, dy xhat, four of dW2, none
    sum_dy = tl.sum(tl.where(k == 0, sums, 0.0), axis=0)
    tl.store(sums_ptr + k * N + n, sums, mask=k < 2)
    tl.store(dbeta_ptr + n, sum_dy)
    tl.store(dgamma_ptr + n, tl.sum(tl.where(k == 1, sums, 0.0), axis=0))
    tl.store(dw2_ptr + (k - 2) * N + n, sums, mask=(k >= 2) & (k < 6))
    if TRAINING:  # the batch's mean takes b1 away again
        tl.store(db1_ptr + n, 0.0)
    else:
        tl.store(db1_ptr + n, sum_dy * tl.load(gamma_ptr + n).to(tl.float32) * tl.load(stats_ptr + N + n))
    if n == 0:
        _store_bias_gradient(db2_ptr, dr_ptr, B, BLOCK_T)


@jit("B", "all_tiles", counts=(*COUNTS, "blocks"))
def input_gradient_kernel(
    x_ptr, w1_ptr, h_ptr, dy_ptr, stats_ptr, gamma_ptr, sums_ptr, dx_ptr, part_ptr, sum_x_ptr, sum_dh_ptr,
    B, P, C, W, N, sb, sc, sh, sw, db, dc, dh_stride, dw_stride, tiles, all_tiles, run, blocks,
    TRAINING: tl.constexpr, LOAD: tl.constexpr, NEED_DX: tl.constexpr, ADD: tl.constexpr, SCALE: tl.constexpr,
    FLAT: tl.constexpr, FLAT_DX: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """``dx`` of ``run`` tiles and one block of channels; their part of ``dW1``, (programs, N, C), and sums for it.

    In training these are the sums of ``x``, (programs, C), and those of ``dh`` as it was multiplied, (programs, N).

    Without ``LOAD`` all channels are in one block. ``SCALE`` brings ``dh`` to at most 1 before it becomes float16,
    where the gradients of a large image would vanish. ``ADD`` adds to what ``dx`` holds.
    """
    block, program = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    n, c = tl.arange(0, BLOCK_N), block * BLOCK_C + tl.arange(0, BLOCK_C)
    mean, invstd = _vector(stats_ptr, n, N), _vector(stats_ptr + N, n, N)
    slope = _vector(gamma_ptr, n, N) * invstd
    inside = (n[:, None] < N) & (c[None, :] < C)
    w1 = tl.load(w1_ptr + n[:, None] * C + c[None, :], mask=inside, other=0.0).to(x_ptr.dtype.element_ty)
    if TRAINING:
        pixels = 1.0 * B * P
        mean_dy, tilt = _vector(sums_ptr, n, N) / pixels, _vector(sums_ptr + N, n, N) / pixels * invstd
    dw1 = tl.zeros((BLOCK_C, BLOCK_N), dtype=tl.float32)
    sum_x = tl.zeros((BLOCK_C,), dtype=tl.float32)
    sum_dh = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for q in range(program * run, tl.minimum(program * run + run, all_tiles)):
        b = (q // tiles).to(tl.int64)
        p = _pixels(q % tiles, BLOCK_P, WIDE)
        on_tile = (p[:, None] < P) & (c[None, :] < C)
        x = tl.load(x_ptr + b * sb + _offsets(p, c, W, sc, sh, sw, FLAT, WIDE), mask=on_tile, other=0.0)
        if NEED_DX:
            dx_tile = dx_ptr + b * db + _offsets(p, c, W, dc, dh_stride, dw_stride, FLAT_DX, WIDE)
            dx = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
            if ADD:  # asked for now, it is there when it is needed
                dx = tl.load(dx_tile, mask=on_tile, other=0.0).to(tl.float32)
        at, in_h = _hidden(n, p, P, N)
        dh = tl.load(dy_ptr + b * P * N + at, mask=in_h, other=0.0).to(tl.float32)
        if TRAINING:
            if LOAD:
                h = tl.load(h_ptr + b * P * N + at, mask=in_h, other=0.0).to(tl.float32)
            else:
                h = tl.trans(_dot(x, tl.trans(w1), PRECISION))
            dh = tl.where(in_h, dh - mean_dy[:, None] - (h - mean[:, None]) * tilt[:, None], 0.0)
        dh *= slope[:, None]
        size = 1.0
        if SCALE:
            size = tl.max(tl.max(tl.abs(dh), axis=1), axis=0)
            size = tl.where(size > 0.0, size, 1.0)
            dh = dh / size
        dh = tl.trans(dh).to(x.dtype)  # (BLOCK_P, BLOCK_N)
        dw1 += _dot_of_pixels(tl.trans(x), dh, PRECISION) * size
        if TRAINING:
            sum_x += tl.sum(x.to(tl.float32), axis=0)
            sum_dh += tl.sum(dh.to(tl.float32), axis=0) * size
        if NEED_DX:
            dx += _dot(dh, w1, PRECISION) * size
            tl.store(dx_tile, dx.to(dx_ptr.dtype.element_ty), mask=on_tile)
    part = part_ptr + program.to(tl.int64) * N * C + n[None, :] * C + c[:, None]
    tl.store(part, dw1, mask=(c[:, None] < C) & (n[None, :] < N))
    if TRAINING:
        tl.store(sum_x_ptr + program * C + c, sum_x, mask=c < C)
        if block == 0:
            tl.store(sum_dh_ptr + program * N + n, sum_dh, mask=n < N)


@jit("B", "P", "parts")
def weight_gradient_kernel(
    part_ptr, sum_x_ptr, sum_dh_ptr, dw1_ptr, B, P, C, N, parts,
    TRAINING: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``dW1`` of one hidden channel and a block of channels.

    In training ``dh`` sums to zero but for rounding, which a mean of ``x`` far from zero would carry into ``dW1``; the
    sum as it is times the mean of ``x`` takes that away.
    """
    n, c = tl.program_id(0), tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    dw1 = tl.zeros((BLOCK_C,), dtype=tl.float32)
    sum_x = tl.zeros((BLOCK_C,), dtype=tl.float32)
    sum_dh = 0.0
    for first in range(0, parts, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        inside = (t[:, None] < parts) & (c[None, :] < C)
        part = part_ptr + (t[:, None].to(tl.int64) * N + n) * C + c[None, :]
        dw1 += tl.sum(tl.load(part, mask=inside, other=0.0), axis=0)
        if TRAINING:
            sum_x += tl.sum(tl.load(sum_x_ptr + t[:, None] * C + c[None, :], mask=inside, other=0.0), axis=0)
            sum_dh += tl.sum(tl.load(sum_dh_ptr + t * N + n, mask=t < parts, other=0.0), axis=0)
    if TRAINING:
        dw1 -= sum_x * (sum_dh / (1.0 * B * P))
    tl.store(dw1_ptr + n * C + c, dw1, mask=c < C)
