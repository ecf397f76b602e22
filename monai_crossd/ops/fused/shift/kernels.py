"""Triton kernels from the predictor's four numbers to the shift operator, an image a program.

``shift`` has the equations.

Moved, in float32: ``4 B`` numbers read and ``B K^5`` written, backward the other way round.
"""

from __future__ import annotations

from monai_crossd.ops.fused.language import jit, tl

__all__ = ["operator_grad_kernel", "operator_kernel", "shift_factors", "shift_grad_kernel"]


@jit()
def _axis_and_angle(r_ptr, b):
    """``v``, its norm, ``k = v / (norm + 1e-8)`` and ``tanh(r[3])``."""
    v0, v1, v2 = tl.load(r_ptr + b * 4), tl.load(r_ptr + b * 4 + 1), tl.load(r_ptr + b * 4 + 2)
    norm = tl.sqrt_rn(v0 * v0 + v1 * v1 + v2 * v2)
    scale = 1.0 / (norm + 1e-8)
    e = tl.exp(-2.0 * tl.abs(tl.load(r_ptr + b * 4 + 3)))
    tanh = (1.0 - e) / (1.0 + e)
    tanh = tl.where(tl.load(r_ptr + b * 4 + 3) < 0.0, -tanh, tanh)
    return v0, v1, v2, norm, scale, v0 * scale, v1 * scale, v2 * scale, tanh


@jit()
def _sine(turns):
    """Sine of at most a quarter turn either way."""
    x = 6.283185307179586 * turns
    q = x * x
    series = 1 / 362880 - q * (1 / 39916800)
    series = 1 / 120 - q * (1 / 5040 - q * series)
    return x - x * q * (1 / 6 - q * series)


@jit()
def _waves(turns):
    """Cosine and sine by a few terms: the library takes any argument, by code that takes longer to load than to run."""
    turns -= tl.floor(turns + 0.5)
    away = tl.abs(turns)
    folded = tl.where(away > 0.25, 0.5 - away, away)
    return _sine(0.25 - away), _sine(tl.where(turns < 0.0, -folded, folded))


@jit()
def _factor(delta, K: tl.constexpr):
    """Real and imaginary part of an entry of ``D_s`` at ``delta = n - m - s``, and their derivatives to ``s``."""
    TURN: tl.constexpr = 6.283185307179586 / K
    real = tl.full(delta.shape, 1.0, tl.float32)
    d_real = tl.zeros(delta.shape, tl.float32)
    for f in tl.static_range(1, (K + 1) // 2):
        cos, sin = _waves(delta * (f / K))
        real += 2.0 * cos
        d_real += 2.0 * TURN * f * sin
    imag = tl.zeros(delta.shape, tl.float32)
    d_imag = tl.zeros(delta.shape, tl.float32)
    if K % 2 == 0:
        cos, sin = _waves(delta * 0.5)
        real += cos
        d_real += 3.141592653589793 * sin
        imag = -sin
        d_imag = 3.141592653589793 * cos
    return real / K, imag / K, d_real / K, d_imag / K


@jit()
def shift_factors(r_ptr, b, AXIS: tl.constexpr):
    """``D(0 - s)``, ``D(1 - s)``, ``D(2 - s)`` of one image and axis for ``K = 3``, and their derivatives to ``s``.

    With three as its period they are all entries of a factor.
    """
    _v0, _v1, _v2, _norm, _scale, k0, k1, k2, tanh = _axis_and_angle(r_ptr, b)
    across = k2 - k1 if AXIS == 0 else k0 - k2 if AXIS == 1 else k1 - k0
    away = tl.zeros((1,), tl.float32) - (1.0 + 0.7853981633974483 * tanh * across)
    zero, _, d_zero, _ = _factor(away, 3)
    one, _, d_one, _ = _factor(away + 1.0, 3)
    two, _, d_two, _ = _factor(away + 2.0, 3)
    return zero, one, two, d_zero, d_one, d_two


@jit()
def _factors(entry, s0, s1, s2, K: tl.constexpr):
    """The three factors, each with its derivative, of entries ``(i, k, d, j, m)``, numbered row by row."""
    i, k = entry // (K * K * K * K), entry // (K * K * K) % K
    d, j, m = entry // (K * K) % K, entry // K % K, entry % K
    a, ai, da, dai = _factor((K // 2 - d).to(tl.float32) - s0, K)
    b, bi, db, dbi = _factor((i - j).to(tl.float32) - s1, K)
    c, ci, dc, dci = _factor((k - m).to(tl.float32) - s2, K)
    return a, ai, da, dai, b, bi, db, dbi, c, ci, dc, dci


@jit()
def _product(a, ai, b, bi, c, ci):
    """Real part of a product of three complex numbers."""
    return a * (b * c - bi * ci) - ai * (bi * c + b * ci)


@jit()
def operator_kernel(r_ptr, m_ptr, K: tl.constexpr, PITCH: tl.constexpr, BLOCK: tl.constexpr):
    """``M`` of one image, whose rows are ``PITCH`` apart, zeros between them."""
    b = tl.program_id(0).to(tl.int64)
    _v0, _v1, _v2, _norm, _scale, k0, k1, k2, tanh = _axis_and_angle(r_ptr, b)
    angle = 0.7853981633974483 * tanh
    s0, s1, s2 = 1.0 + angle * (k2 - k1), 1.0 + angle * (k0 - k2), 1.0 + angle * (k1 - k0)
    S: tl.constexpr = K * K * K
    N: tl.constexpr = K * K * PITCH
    for first in range(0, N, BLOCK):
        at = first + tl.arange(0, BLOCK)
        a, ai, _, _, c, ci, _, _, d, di, _, _ = _factors(at // PITCH * S + at % PITCH, s0, s1, s2, K)
        value = tl.where(at % PITCH < S, _product(a, ai, c, ci, d, di), 0.0)
        tl.store(m_ptr + b * N + at, value, mask=at < N)


@jit()
def _store_gradient(r_ptr, dr_ptr, b, ds0, ds1, ds2):
    """The gradient to the four numbers from that to the shift."""
    v0, v1, v2, norm, scale, k0, k1, k2, tanh = _axis_and_angle(r_ptr, b)
    angle = 0.7853981633974483 * tanh
    dk0, dk1, dk2 = angle * (ds1 - ds2), angle * (ds2 - ds0), angle * (ds0 - ds1)
    along = (v0 * dk0 + v1 * dk1 + v2 * dk2) * scale * scale / tl.where(norm > 0.0, norm, 1.0)
    tl.store(dr_ptr + b * 4, dk0 * scale - v0 * along)
    tl.store(dr_ptr + b * 4 + 1, dk1 * scale - v1 * along)
    tl.store(dr_ptr + b * 4 + 2, dk2 * scale - v2 * along)
    dangle = ds0 * (k2 - k1) + ds1 * (k0 - k2) + ds2 * (k1 - k0)  # 1 x k
    tl.store(dr_ptr + b * 4 + 3, dangle * 0.7853981633974483 * (1.0 - tanh * tanh))


@jit("images", "shares", counts=("parts",))
def operator_grad_kernel(
    r_ptr, dm_ptr, dr_ptr, images, shares, parts, K: tl.constexpr, BLOCK: tl.constexpr, BLOCK_T: tl.constexpr
):
    """Gradient to the four numbers of one image, from ``dm`` ``(shares, images, parts, K^5)``, summed over the two."""
    b = tl.program_id(0).to(tl.int64)
    _v0, _v1, _v2, _norm, _scale, k0, k1, k2, tanh = _axis_and_angle(r_ptr, b)
    angle = 0.7853981633974483 * tanh
    s0, s1, s2 = 1.0 + angle * (k2 - k1), 1.0 + angle * (k0 - k2), 1.0 + angle * (k1 - k0)
    N: tl.constexpr = K * K * K * K * K
    ds0, ds1, ds2 = 0.0, 0.0, 0.0
    for first in range(0, N, BLOCK):
        entry = first + tl.arange(0, BLOCK)
        sums = tl.zeros((BLOCK_T, BLOCK), tl.float32)
        for start in range(0, shares * parts, BLOCK_T):
            t = start + tl.arange(0, BLOCK_T)
            at = ((t // parts * images + b) * parts + t % parts)[:, None] * N + entry[None, :]
            inside = (t < shares * parts)[:, None] & (entry < N)[None, :]
            sums += tl.load(dm_ptr + at, mask=inside, other=0.0)
        dm = tl.sum(sums, axis=0)  # once, not in every step: threads of a sum meet in shared memory
        a, ai, da, dai, c, ci, dc, dci, e, ei, de, dei = _factors(entry, s0, s1, s2, K)
        ds0 += tl.sum(dm * _product(da, dai, c, ci, e, ei), axis=0)
        ds1 += tl.sum(dm * _product(a, ai, dc, dci, e, ei), axis=0)
        ds2 += tl.sum(dm * _product(a, ai, c, ci, de, dei), axis=0)
    _store_gradient(r_ptr, dr_ptr, b, ds0, ds1, ds2)


@jit("of_depth", "of_plane")
def shift_grad_kernel(r_ptr, depth_ptr, plane_ptr, dr_ptr, of_depth, of_plane, BLOCK: tl.constexpr):
    """The same from parts of the gradient to the shift, ``(images, of_depth)`` and ``(images, 2, of_plane)``."""
    b = tl.program_id(0).to(tl.int64)
    ds0 = _sum(depth_ptr + b * of_depth, of_depth, BLOCK)
    ds1 = _sum(plane_ptr + b * 2 * of_plane, of_plane, BLOCK)
    _store_gradient(r_ptr, dr_ptr, b, ds0, ds1, _sum(plane_ptr + (b * 2 + 1) * of_plane, of_plane, BLOCK))


@jit()
def _sum(at, n_values, BLOCK: tl.constexpr):
    """Sum of values that lie side by side."""
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, n_values, BLOCK):
        value = first + tl.arange(0, BLOCK)
        total += tl.load(at + value, mask=value < n_values, other=0.0)
    return tl.sum(total, axis=0)
