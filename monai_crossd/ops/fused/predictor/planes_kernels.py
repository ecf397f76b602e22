"""Triton kernels of the predictor's backward for images of few channels, such as a network's first layer reads.

There a thread has its pixel with all hidden values, and no product of matrices is near. ``kernels`` has the
equations and the symbols. One pass over the pixels is enough, since ``h - mean`` is linear in ``x``: from

    ``dh = slope (dy - a - (h - mean) t)``, ``h - mean = W1 x + kappa``, ``kappa = W1 center - mean``

follows, with ``x`` from a ``center`` on, and without it because ``dh`` sums to zero,

    ``dW1 = slope (sum dy x^T - a (sum x)^T - t (W1 sum x x^T + kappa (sum x)^T))``,

and likewise ``sum dy (h - mean) = W1 sum dy x^T + kappa sum dy``. The center is a mean of 32 pixels of the first image:
sums of products far from zero would lose what they differ by.
"""

from __future__ import annotations

from monai_crossd.ops.fused.language import jit, tl
from monai_crossd.ops.fused.predictor.tiles import (
    COUNTS,
    _columns_of_w1,
    _feature_gradients,
    _features,
    _of_image,
    _offsets,
    _outputs,
    _part,
    _pixels,
    _places,
    _planes,
    _rows,
    _share,
    _store_bias_gradient,
    _total,
    _vector,
)

__all__ = ["planes_input_gradient_kernel", "planes_parameter_gradient_kernel", "planes_sums_kernel"]


@jit()
def _center(x_ptr, c, P, C, W, sc, sh, sw, FLAT: tl.constexpr):
    """What sums go from, (BLOCK_C,) in float32, zeros behind the channels."""
    p = tl.minimum(tl.arange(0, 32) * ((P + 31) // 32), P - 1)
    at = x_ptr + _places(p, W, sh, sw, FLAT)[None, :] + c[:, None] * sc
    return tl.sum(tl.load(at, mask=c[:, None] < C, other=0.0).to(tl.float32), axis=1) / 32


@jit("B", "all_tiles", counts=COUNTS)
def planes_sums_kernel(
    x_ptr, w1_ptr, dr_ptr, stats_ptr, soft_ptr, gamma_ptr, beta_ptr, w2_ptr, part_ptr, moment_ptr,
    B, P, C, W, N, sb, sc, sh, sw, tiles, all_tiles, run,
    FLAT: tl.constexpr, WIDE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sums over ``run`` tiles, of ``x`` from the center on with a channel of ones behind it, ``x1``.

    Of the four rows of ``dW2`` and ``dy x1``, (5 + C, N, programs); of ``x1 x1^T``, (1 + C, 1 + C, programs). More of
    them would not fit into registers.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    n, c = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_C)
    mean, slope = _vector(stats_ptr, n, N), _vector(gamma_ptr, n, N) * _vector(stats_ptr + N, n, N)
    w2 = _rows(w2_ptr, n, N)
    w1 = _columns_of_w1(w1_ptr, n, C, N, BLOCK_C, x_ptr.dtype.element_ty)
    center = _center(x_ptr, c, P, C, W, sc, sh, sw, FLAT)
    at_center = (tl.sum(w1 * center[:, None], axis=0) - mean) * slope + _vector(beta_ptr, n, N)
    line = tl.where(c[:, None] == C, at_center[None, :], w1 * slope[None, :])  # y = line^T x1
    none = tl.zeros((BLOCK_N, BLOCK_P), tl.float32)  # pixels are added up at the end
    dw0, dw1, dw2, dw3 = none, none, none, none
    dy_x = tl.zeros((BLOCK_C, BLOCK_N, BLOCK_P), tl.float32)
    x_x = tl.zeros((BLOCK_C, BLOCK_C, BLOCK_P), tl.float32)
    first, last, first_image, images = _share(program, run, tiles, all_tiles)
    for number in range(images):  # all from this number: sums of steps Triton 3.6 takes for constant
        first_tile, last_tile = _part(first, last, first_image + number, tiles)
        b = (first_image + number).to(tl.int64)
        image = _of_image(dr_ptr, soft_ptr, B, b)
        ahead = _planes(x_ptr + b * sb, _pixels(first_tile, BLOCK_P, WIDE), P, C, W, sc, sh, sw, FLAT, BLOCK_C)
        for tile in range(first_tile, last_tile):
            p, x = _pixels(tile, BLOCK_P, WIDE), ahead
            ahead = _planes(x_ptr + b * sb, _pixels(tile + 1, BLOCK_P, WIDE), P, C, W, sc, sh, sw, FLAT, BLOCK_C)
            x = tl.where(c[:, None] == C, 1.0, x - center[:, None])
            y = tl.sum(line[:, :, None] * x[:, None, :], axis=0)
            z, f = _outputs(y, w2)
            df, dy = _feature_gradients(p < P, y, f, image, w2)
            dw0 += df[0][None, :] * z
            dw1 += df[1][None, :] * z
            dw2 += df[2][None, :] * z
            dw3 += df[3][None, :] * z
            dy_x += dy[None, :, :] * x[:, None, :]
            x = tl.where(p[None, :] < P, x, 0.0)
            x_x += x[:, None, :] * x[None, :, :]
    part, every = part_ptr + n * programs + program, N * programs
    tl.store(part, tl.sum(dw0, axis=1), mask=n < N)
    tl.store(part + every, tl.sum(dw1, axis=1), mask=n < N)
    tl.store(part + 2 * every, tl.sum(dw2, axis=1), mask=n < N)
    tl.store(part + 3 * every, tl.sum(dw3, axis=1), mask=n < N)
    inside = (c[:, None] <= C) & (n[None, :] < N)
    tl.store(part[None, :] + (4 + c)[:, None] * every, tl.sum(dy_x, axis=2), mask=inside)
    moment = moment_ptr + ((1 + C) * c[:, None] + c[None, :]) * programs + program
    tl.store(moment, tl.sum(x_x, axis=2), mask=(c[:, None] <= C) & (c[None, :] <= C))


@jit("B", "parts", counts=("W",))
def planes_parameter_gradient_kernel(
    x_ptr, w1_ptr, part_ptr, moment_ptr, dr_ptr, stats_ptr, gamma_ptr,
    sums_ptr, dw1_ptr, db1_ptr, dgamma_ptr, dbeta_ptr, dw2_ptr, db2_ptr,
    B, P, C, W, N, sc, sh, sw, parts,
    TRAINING: tl.constexpr, FLAT: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One hidden channel: the partial sums added up, and the gradients to all parameters.

    Leaves the sums of ``dy`` and ``dy xhat``, (2, N), for :func:`planes_input_gradient_kernel`.
    """
    n, c, j = tl.program_id(0), tl.arange(0, BLOCK_C), tl.arange(0, 4)
    dw2 = _total(part_ptr, j * N + n, j < 4, parts, BLOCK_T)
    dy_x = _total(part_ptr, (4 + c) * N + n, c <= C, parts, BLOCK_T)
    sum_dy = tl.sum(tl.where(c == C, dy_x, 0.0), axis=0)
    w1 = tl.load(w1_ptr + n * C + c, mask=c < C, other=0.0).to(x_ptr.dtype.element_ty).to(tl.float32)
    center, invstd = _center(x_ptr, c, P, C, W, sc, sh, sw, FLAT), tl.load(stats_ptr + N + n)
    kappa = tl.sum(w1 * center, axis=0) - tl.load(stats_ptr + n)
    slope = tl.load(gamma_ptr + n).to(tl.float32) * invstd
    sum_dy_xhat = (tl.sum(w1 * dy_x, axis=0) + kappa * sum_dy) * invstd
    if TRAINING:  # the batch's mean takes b1 away again
        pixels = 1.0 * B * P
        sum_x = _total(moment_ptr, C * (1 + C) + c, c < C, parts, BLOCK_T)
        w1_x_x = kappa * sum_x
        for row in range(C):
            of_row = tl.sum(tl.where(c == row, w1, 0.0), axis=0)
            w1_x_x += of_row * _total(moment_ptr, row * (1 + C) + c, c < C, parts, BLOCK_T)
        dw1 = dy_x - sum_dy / pixels * sum_x - sum_dy_xhat / pixels * invstd * w1_x_x
        tl.store(db1_ptr + n, 0.0)
    else:
        dw1 = dy_x + center * sum_dy
        tl.store(db1_ptr + n, sum_dy * slope)
    tl.store(dw1_ptr + n * C + c, dw1 * slope, mask=c < C)
    tl.store(sums_ptr + n, sum_dy)
    tl.store(sums_ptr + N + n, sum_dy_xhat)
    tl.store(dbeta_ptr + n, sum_dy)
    tl.store(dgamma_ptr + n, sum_dy_xhat)
    tl.store(dw2_ptr + j * N + n, dw2)
    if n == 0:
        _store_bias_gradient(db2_ptr, dr_ptr, B, BLOCK_T)


@jit("B", "all_tiles", counts=COUNTS)
def planes_input_gradient_kernel(
    x_ptr, w1_ptr, dr_ptr, stats_ptr, soft_ptr, gamma_ptr, beta_ptr, w2_ptr, sums_ptr, dx_ptr,
    B, P, C, W, N, sb, sc, sh, sw, db, dc, dh_stride, dw_stride, tiles, all_tiles, run,
    TRAINING: tl.constexpr, ADD: tl.constexpr, FLAT: tl.constexpr, FLAT_DX: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """``dx`` of ``run`` tiles. ``ADD`` adds to what it holds."""
    n, c = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_C)
    mean, invstd = _vector(stats_ptr, n, N), _vector(stats_ptr + N, n, N)
    slope, beta, w2 = _vector(gamma_ptr, n, N) * invstd, _vector(beta_ptr, n, N), _rows(w2_ptr, n, N)
    w1 = _columns_of_w1(w1_ptr, n, C, N, BLOCK_C, x_ptr.dtype.element_ty)
    if TRAINING:
        pixels = 1.0 * B * P
        mean_dy, tilt = _vector(sums_ptr, n, N) / pixels, _vector(sums_ptr + N, n, N) / pixels * invstd
    first, last, first_image, images = _share(tl.program_id(0), run, tiles, all_tiles)
    for number in range(images):  # all from this number: sums of steps Triton 3.6 takes for constant
        first_tile, last_tile = _part(first, last, first_image + number, tiles)
        b = (first_image + number).to(tl.int64)
        image = _of_image(dr_ptr, soft_ptr, B, b)
        for tile in range(first_tile, last_tile):
            p = _pixels(tile, BLOCK_P, WIDE)
            x = _planes(x_ptr + b * sb, p, P, C, W, sc, sh, sw, FLAT, BLOCK_C)
            h = tl.sum(w1[:, :, None] * x[:, None, :], axis=0)
            deviation, y, _, f = _features(h, mean, slope, beta, w2)
            _, dh = _feature_gradients(p < P, y, f, image, w2)
            if TRAINING:
                dh = dh - mean_dy[:, None] - deviation * tilt[:, None]
            dx = tl.sum(w1[:, :, None] * (dh * slope[:, None])[None, :, :], axis=1)
            at = dx_ptr + b * db + tl.trans(_offsets(p, c, W, dc, dh_stride, dw_stride, FLAT_DX, WIDE))
            on_tile = (c[:, None] < C) & (p[None, :] < P)
            if ADD:
                dx += tl.load(at, mask=on_tile, other=0.0).to(tl.float32)
            tl.store(at, dx.to(dx_ptr.dtype.element_ty), mask=on_tile)
