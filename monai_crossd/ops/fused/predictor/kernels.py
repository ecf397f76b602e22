"""Triton kernels of the predictor: 1x1 convolution, BatchNorm2d, ReLU, 1x1 convolution and softmax pooling.

With ``P = H W`` pixels an image, ``N = 16`` hidden channels and ``h = W1 x``,

    ``xhat = (h - mean) invstd``, ``y = gamma xhat + beta``, ``f = W2 relu(y)``, ``r = b2 + sum_p f softmax_p(f)``.

The two biases stay out of every sum over pixels: ``b1`` moves the mean alone and ``b2`` moves ``r`` alone. Backward,
with ``g = dr`` and ``p = softmax(f)``: ``df = g p (1 + f - r)``, ``dy = (W2^T df) [y > 0]``,
``dh = gamma invstd (dy - (sum dy + xhat sum dy xhat) / (B P))``, in eval mode without the sums, ``dW1 = dh x^T`` and
``dx = W1^T dh``. ``backward_kernels`` has its kernels.

Floors of a layer, in elements and leaving out what does not grow with the pixels, ``x`` being ``B C P`` of them:

- Forward. Moved: ``x`` read once, ``B C P``. Training cannot do with that alone, as no pixel can be normalized before
  all are seen: either ``h`` is written and read, ``2 B N P``, or ``x`` is read twice. Operations: ``2 B N C P`` with
  ``W1``, ``8 B N P`` with ``W2`` and ``4 B P`` exponentials.
- Backward. Moved: ``x`` read once for ``dW1`` and ``dx`` written once, ``2 B C P``; besides ``h`` (or ``x``) read once,
  in training twice, as the sums come first. Operations: ``4 B N C P`` for ``dW1`` and ``dx``, and ``8 B N P`` with
  ``W2`` each for ``f`` again, ``dz`` and ``dW2``.

That is at most ``2 N = 32`` operations for each element moved: bound by memory on a GPU with matrix units. Moved here:

- ``C > 2 N``: forward in training ``B (C + 2 N) P`` in two passes, in eval mode ``B C P`` in one and ``B N P`` more
  where gradients are needed; backward ``B (2 C + 2 N + 2 N ceil(C / BLOCK_C)) P``: ``h`` is read and ``dy`` written,
  then both are read, the last term by programs side by side, mostly from the cache.
- ``C <= 2 N``: storing ``h`` would cost as much as ``x`` or more, so it is computed wherever it is needed: forward
  ``2 B C P`` in training and ``B C P`` in eval mode; backward ``3 B C P``, or ``2 B C P`` where ``dx`` is not needed,
  and ``2 B N P`` for ``dy``. ``planes_kernels``, for images of a few channels, does without ``dy`` and reads ``x`` once
  where ``dx`` is not needed.
- Where ``x`` is cast on the way, it is read in its own dtype once, and ``B C P`` are written besides.
- Besides, partial sums of about ``PROGRAMS`` programs: ``2 N`` numbers of each for the statistics, 12 for the pooling,
  ``6 N`` and ``(N + 1) C`` backward, or ``(5 + C) N`` and ``(1 + C) C`` for a few channels.

``W1`` is rounded to the dtype of ``x``; ``h`` is accumulated in float32 and stored as ``(B, N, P)`` in that dtype, as
torch stores a convolution's output; training statistics are those of the stored values. All else is float32, ``dy`` as
it is stored too; all sums have a fixed order, and there are no atomics. Products of float32 are in TF32 where
``torch.backends.cudnn`` allows that for convolutions, else they use ``tf32x3``, which keeps about float32's accuracy on
the matrix units.
"""

from __future__ import annotations

from monai_crossd.ops.fused.language import jit, tl, triton
from monai_crossd.ops.fused.predictor.tiles import (
    COUNTS,
    _features,
    _load_hidden,
    _pixels,
    _project,
    _rows,
    _store_hidden,
    _vector,
)

__all__ = ["combine_kernel", "pool_kernel", "project_kernel", "statistics_kernel"]

if triton is not None:
    LOWEST = tl.constexpr(-1e38)  # a maximum of nothing: differences of it stay finite


@jit()
def _softened(inside, f, top, total, weighted):
    """Every pixel's own running maximum, sum of exponentials and weighted sum, with one value more."""
    higher = tl.maximum(top, tl.where(inside, f, top))
    e = tl.where(inside, tl.exp(tl.where(inside, f - higher, 0.0)), 0.0)
    shrink = tl.exp(top - higher)
    return higher, total * shrink + e, weighted * shrink + e * f


@jit()
def _joined(top, total, weighted):
    """Those of many pixels, or parts, as one."""
    highest = tl.max(top, axis=0)
    scale = tl.exp(top - highest)
    return highest, tl.sum(total * scale, axis=0), tl.sum(weighted * scale, axis=0)


@jit()
def _store_pooled(r_ptr, soft_ptr, b2_ptr, B, b, j, top, total, weighted):
    """``r`` and what backward needs of the softmax: its maximum, one over its sum, and ``r - b2``."""
    r = weighted / total
    tl.store(r_ptr + b * 4 + j, r + tl.load(b2_ptr + j).to(tl.float32))
    tl.store(soft_ptr + b * 4 + j, top)
    tl.store(soft_ptr + (B + b) * 4 + j, 1.0 / total)
    tl.store(soft_ptr + (2 * B + b) * 4 + j, r)


@jit()
def _finish(part, r_ptr, soft_ptr, b2_ptr, B, b, j, top, total, weighted, LAST: tl.constexpr):
    """One feature of a program: its part of an image, or all of it."""
    top, total, weighted = _joined(top, total, weighted)
    if LAST:
        _store_pooled(r_ptr, soft_ptr, b2_ptr, B, b, j, top, total, weighted)
    else:
        tl.store(part + j, top)
        tl.store(part + 4 + j, total)
        tl.store(part + 8 + j, weighted)


@jit("all_tiles", counts=COUNTS)
def project_kernel(
    x_ptr, cast_ptr, w1_ptr, h_ptr, part_ptr, P, C, W, N, sb, sc, sh, sw, tiles, all_tiles, run,
    STORE: tl.constexpr, PLANES: tl.constexpr, FLAT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """``h`` of ``run`` tiles and their count, mean and sum of squared deviations, (1 + 2 N, programs).

    With ``cast_ptr``, which is written, ``x`` is to be cast, and there is what the other kernels read.
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    n = tl.arange(0, BLOCK_N)
    count = tl.zeros((BLOCK_P,), dtype=tl.float32)  # of every place in a tile: they meet at the end
    mean = tl.zeros((BLOCK_N, BLOCK_P), dtype=tl.float32)
    squares = tl.zeros((BLOCK_N, BLOCK_P), dtype=tl.float32)
    for q in range(program * run, tl.minimum(program * run + run, all_tiles)):
        b = (q // tiles).to(tl.int64)
        p = _pixels(q % tiles, BLOCK_P, WIDE)
        h = _project(
            x_ptr, cast_ptr, b * sb, w1_ptr, p, P, C, W, N, sc, sh, sw, PLANES, FLAT, WIDE, PRECISION,
            BLOCK_P, BLOCK_C, BLOCK_N,
        )  # fmt: skip
        if STORE:
            h = _store_hidden(h_ptr + b * P * N, h, n, p, P, N)
        here = (p < P).to(tl.float32)
        count += here
        deviation = h - mean  # Welford's rule: no difference of large numbers
        mean += deviation * (here / tl.maximum(count, 1.0))[None, :]
        squares += deviation * (h - mean) * here[None, :]
    all_count = tl.sum(count, axis=0)
    all_mean = tl.sum(mean * count[None, :], axis=1) / all_count
    deviation = mean - all_mean[:, None]
    all_squares = tl.sum(squares + deviation * deviation * count[None, :], axis=1)
    tl.store(part_ptr + program, all_count)
    tl.store(part_ptr + (1 + n) * programs + program, all_mean, mask=n < N)
    tl.store(part_ptr + (1 + N + n) * programs + program, all_squares, mask=n < N)


@jit("parts")
def statistics_kernel(
    part_ptr, b1_ptr, stats_ptr, running_mean_ptr, running_var_ptr, batches_ptr, N, parts, eps, momentum,
    TRACK: tl.constexpr, CUMULATIVE: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """One hidden channel: mean of ``h``, one over the deviation, the batch's mean and its unbiased variance.

    ``TRACK`` moves the running statistics towards those of the batch: by ``momentum``, and counts the batch, or
    ``CUMULATIVE`` by one over the number of batches, already counted.
    """
    n = tl.program_id(0)
    count, mean, squares = 0.0, 0.0, 0.0
    for first in range(0, parts, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        counts = tl.load(part_ptr + t, mask=t < parts, other=0.0)
        means = tl.load(part_ptr + (1 + n) * parts + t, mask=t < parts, other=0.0)
        here = tl.sum(counts, axis=0)
        mean_here = tl.sum(counts * means, axis=0) / here
        deviation = means - mean_here
        squares_here = tl.load(part_ptr + (1 + N + n) * parts + t, mask=t < parts, other=0.0)
        step = mean_here - mean
        share = here / (count + here)
        squares += tl.sum(squares_here + counts * deviation * deviation, axis=0) + step * step * (count * share)
        mean += step * share
        count += here
    tl.store(stats_ptr + n, mean)
    tl.store(stats_ptr + N + n, 1.0 / tl.sqrt_rn(squares / count + eps))
    mean += tl.load(b1_ptr + n).to(tl.float32)
    variance = squares / (count - 1.0)
    tl.store(stats_ptr + 2 * N + n, mean)
    tl.store(stats_ptr + 3 * N + n, variance)
    if TRACK:
        if CUMULATIVE:
            momentum = 1.0 / tl.load(batches_ptr).to(tl.float32)
        running = tl.load(running_mean_ptr + n).to(tl.float32)
        tl.store(running_mean_ptr + n, (running + momentum * (mean - running)).to(running_mean_ptr.dtype.element_ty))
        running = tl.load(running_var_ptr + n).to(tl.float32)
        tl.store(running_var_ptr + n, (running + momentum * (variance - running)).to(running_var_ptr.dtype.element_ty))
        if not CUMULATIVE and n == 0:
            tl.store(batches_ptr, tl.load(batches_ptr) + 1)


@jit("B", counts=(*COUNTS, "programs"))
def pool_kernel(
    x_ptr, cast_ptr, w1_ptr, b1_ptr, mean_ptr, var_ptr, gamma_ptr, beta_ptr, w2_ptr, b2_ptr,
    h_ptr, stats_ptr, part_ptr, r_ptr, soft_ptr, B, P, C, W, N, sb, sc, sh, sw, tiles, run, programs, eps,
    EVAL: tl.constexpr, LOAD: tl.constexpr, STORE: tl.constexpr, LAST: tl.constexpr,
    PLANES: tl.constexpr, FLAT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Softmax pooling of ``run`` tiles of one image; ``LAST`` where an image has one program and needs no other kernel.

    ``LOAD`` reads ``h``, else it is computed from ``x`` and, with ``STORE``, kept. ``EVAL`` normalizes with the running
    statistics and leaves them in ``stats`` for backward. ``cast_ptr`` as in ``project_kernel``.
    """
    b = (tl.program_id(0) // programs).to(tl.int64)
    program = tl.program_id(0) % programs
    n = tl.arange(0, BLOCK_N)
    if EVAL:
        mean = _vector(mean_ptr, n, N) - _vector(b1_ptr, n, N)
        invstd = 1.0 / tl.sqrt_rn(tl.load(var_ptr + n, mask=n < N, other=1.0).to(tl.float32) + eps)
        if tl.program_id(0) == 0:
            tl.store(stats_ptr + n, mean, mask=n < N)
            tl.store(stats_ptr + N + n, invstd, mask=n < N)
    else:
        mean = _vector(stats_ptr, n, N)
        invstd = _vector(stats_ptr + N, n, N)
    slope, beta, w2 = _vector(gamma_ptr, n, N) * invstd, _vector(beta_ptr, n, N), _rows(w2_ptr, n, N)
    none, nothing = tl.zeros((BLOCK_P,), tl.float32), tl.full((BLOCK_P,), LOWEST, tl.float32)
    top0, total0, weighted0, top1, total1, weighted1 = nothing, none, none, nothing, none, none
    top2, total2, weighted2, top3, total3, weighted3 = nothing, none, none, nothing, none, none
    for tile in range(program * run, tl.minimum(program * run + run, tiles)):
        p = _pixels(tile, BLOCK_P, WIDE)
        if LOAD:
            h = _load_hidden(h_ptr + b * P * N, p, P, N, BLOCK_N)
        else:
            h = _project(
                x_ptr, cast_ptr, b * sb, w1_ptr, p, P, C, W, N, sc, sh, sw, PLANES, FLAT, WIDE, PRECISION,
                BLOCK_P, BLOCK_C, BLOCK_N,
            )  # fmt: skip
            if STORE:
                _store_hidden(h_ptr + b * P * N, h, n, p, P, N)
        _, _, _, f = _features(h, mean, slope, beta, w2)
        top0, total0, weighted0 = _softened(p < P, f[0], top0, total0, weighted0)
        top1, total1, weighted1 = _softened(p < P, f[1], top1, total1, weighted1)
        top2, total2, weighted2 = _softened(p < P, f[2], top2, total2, weighted2)
        top3, total3, weighted3 = _softened(p < P, f[3], top3, total3, weighted3)
    part = part_ptr + tl.program_id(0).to(tl.int64) * 12
    _finish(part, r_ptr, soft_ptr, b2_ptr, B, b, 0, top0, total0, weighted0, LAST)
    _finish(part, r_ptr, soft_ptr, b2_ptr, B, b, 1, top1, total1, weighted1, LAST)
    _finish(part, r_ptr, soft_ptr, b2_ptr, B, b, 2, top2, total2, weighted2, LAST)
    _finish(part, r_ptr, soft_ptr, b2_ptr, B, b, 3, top3, total3, weighted3, LAST)


@jit("B", "programs")
def combine_kernel(part_ptr, b2_ptr, r_ptr, soft_ptr, B, programs, BLOCK_T: tl.constexpr):
    """One image: ``r`` from the maxima, sums and weighted sums of its programs, (B, programs, 3, 4)."""
    b, j = tl.program_id(0).to(tl.int64), tl.program_id(1)
    top = tl.full((BLOCK_T,), LOWEST, tl.float32)
    total, weighted = tl.zeros((BLOCK_T,), tl.float32), tl.zeros((BLOCK_T,), tl.float32)
    for first in range(0, programs, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        part, inside = part_ptr + (b * programs + t) * 12 + j, t < programs
        f = tl.load(part, mask=inside, other=LOWEST)
        higher = tl.maximum(top, f)
        scale, shrink = tl.exp(f - higher), tl.exp(top - higher)
        total = total * shrink + scale * tl.load(part + 4, mask=inside, other=0.0)
        weighted = weighted * shrink + scale * tl.load(part + 8, mask=inside, other=0.0)
        top = higher
    top_all, total_all, weighted_all = _joined(top, total, weighted)
    _store_pooled(r_ptr, soft_ptr, b2_ptr, B, b, j, top_all, total_all, weighted_all)
