"""Triton kernels that mix the kernels of all images from one knowledge base, and back.

``k[b, t, o, c] = sum_s M[b, t, s] U[o, c, s]``, with the symbols of ``kernels``.
"""

from __future__ import annotations

from monai_crossd.ops.fused.images.halves_kernels import scale_of
from monai_crossd.ops.fused.language import jit, tl

__all__ = ["mix_kernel", "unmix_m_kernel", "unmix_u_kernel"]


@jit()
def _places(r, n, n_values, inner, step_t, step_c, T: tl.constexpr, LIBRARY: tl.constexpr):
    """Where values of kernels lie, ``r = (b, t)`` and ``n = (o, c)``: as (b, t, o, c), (b, o, c, t) or (b, o, t, c)."""
    r = r.to(tl.int64)
    if LIBRARY:
        r = r // T * T * n_values + r % T * step_t
        n = n // inner * inner * T + n % inner * step_c
        return r[:, None] + n[None, :]
    return r[:, None] * n_values + n[None, :]


@jit("n_rows", "share")
def mix_kernel(
    u, m, k, bounds, k_factor, n_values, n_rows, share, rows, red, inner, step_t, step_c,
    T: tl.constexpr, S: tl.constexpr, PITCH: tl.constexpr, TRANSPOSED: tl.constexpr, LIBRARY: tl.constexpr,
    BOUNDS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``k[r, n] = sum_s m[r, s] u[n, s]`` for a block of ``n = (o, c)`` and a share of ``r = (b, t)``.

    Rows of ``m`` are ``PITCH`` apart, with zeros from ``S`` on. Taps are in reverse order where they are ``TRANSPOSED``
    for a ``LIBRARY``.

    With ``bounds``, partial maxima of ``|u|`` and of sums of ``|m|``, k is scaled, and its factor stored.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    s = tl.arange(0, BLOCK_S)
    row = n
    if TRANSPOSED:  # n = (group, c, o), row of u = (group, o, c); any order of rows loads alike
        c = n // rows
        row = ((c // red) * rows + n % rows) * red + c % red
    u_at = u + row[None, :] * S + s[:, None]
    n_ok = (n < n_values)[None, :]
    if S <= BLOCK_S:
        ut = tl.load(u_at, mask=n_ok & (s < S)[:, None], other=0.0).to(tl.float32)  # (BLOCK_S, BLOCK_N), kept
    first = tl.program_id(1) * share
    scale = 1.0
    if bounds is not None:
        at = bounds + tl.arange(0, BOUNDS)
        scale, factor = scale_of(tl.max(tl.load(at), axis=0) * tl.max(tl.load(at + BOUNDS), axis=0))
        if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
            tl.store(k_factor, factor)
    for r0 in range(first, tl.minimum(first + share, n_rows), BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        r_ok = (r < n_rows)[:, None]
        m_at = m + r[:, None] * PITCH + s[None, :]
        if S <= BLOCK_S:
            mt = tl.load(m_at, mask=r_ok & (s < PITCH)[None, :], other=0.0)  # (BLOCK_R, BLOCK_S)
            acc = tl.dot(mt, ut, input_precision=PRECISION)
        else:  # K = 5 and more: u is read for every block of rows
            acc = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
            for s0 in range(0, S, BLOCK_S):
                mt = tl.load(m_at + s0, mask=r_ok & (s0 + s < PITCH)[None, :], other=0.0)
                ut = tl.load(u_at + s0, mask=n_ok & (s0 + s < S)[:, None], other=0.0).to(tl.float32)
                acc = tl.dot(mt, ut, acc, input_precision=PRECISION)
        if TRANSPOSED and LIBRARY:
            r += T - 1 - r % T * 2
        k_at = k + _places(r, n, n_values, inner, step_t, step_c, T, LIBRARY)
        if bounds is not None:
            acc *= scale
        tl.store(k_at, acc.to(k.dtype.element_ty), mask=r_ok & n_ok)


@jit()
def _product(few, dk, acc, PRECISION: tl.constexpr):
    """``acc + few dk``, ``few`` in float32; next to 16 bits as a sum of two such, which has some 16 bits or more."""
    if dk.dtype.primitive_bitwidth == 32:
        return tl.dot(few, dk, acc, input_precision=PRECISION)
    high = few.to(dk.dtype)
    low = (few - high.to(tl.float32)).to(dk.dtype)
    return tl.dot(low, dk, tl.dot(high, dk, acc))


@jit("n_rows", "parts")
def unmix_u_kernel(
    m, dk, du, n_rows, n_values, parts, inner, step_t, step_c,
    T: tl.constexpr, LIBRARY: tl.constexpr, S: tl.constexpr, PITCH: tl.constexpr, ADD: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``du[n, s] = sum_r dk[r, n] m[image and tap of r, s]`` over all rows ``r = (b, part, t)`` of ``dk``.

    ``ADD`` adds it to what ``du`` holds.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    s = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)
    n_ok, s_ok = (n < n_values)[None, :], (s < S)[:, None]
    acc = tl.zeros(
        (BLOCK_S, BLOCK_N), tl.float32
    )  # mostly values lie side by side in dk: as columns they need no turning
    for first in range(0, n_rows, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        r_ok = r < n_rows
        row = r // (parts * T) * T + r % T
        mt = tl.load(m + row[None, :] * PITCH + s[:, None], mask=r_ok[None, :] & (s < PITCH)[:, None], other=0.0)
        at = dk + _places(r, n, n_values, inner, step_t, step_c, T, LIBRARY)
        dkt = tl.load(at, mask=r_ok[:, None] & n_ok, other=0.0)  # (BLOCK_R, BLOCK_N)
        acc = _product(mt, dkt, acc, PRECISION)
    du_at, ok = du + n[None, :] * S + s[:, None], n_ok & s_ok
    if ADD:
        acc += tl.load(du_at, mask=ok, other=0.0)
    tl.store(du_at, acc.to(du.dtype.element_ty), mask=ok)


@jit("n_rows")
def unmix_m_kernel(
    u, dk, dm, n_rows, n_values, share, inner, step_t, step_c,
    T: tl.constexpr, LIBRARY: tl.constexpr, S: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``dm[share of n, r, s] = sum_n dk[r, n] u[n, s]`` for a block of rows ``r`` of ``dk`` and a share of ``n``."""
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    s = tl.program_id(2) * BLOCK_S + tl.arange(0, BLOCK_S)
    r_ok, s_ok = r < n_rows, s < S
    start = tl.program_id(1) * share
    HALF: tl.constexpr = dk.dtype.element_ty.primitive_bitwidth == 16
    acc = tl.zeros((BLOCK_S, BLOCK_R) if HALF else (BLOCK_R, BLOCK_S), tl.float32)
    for first in range(start, tl.minimum(start + share, n_values), BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        n_ok = n < n_values
        at = dk + _places(r, n, n_values, inner, step_t, step_c, T, LIBRARY)
        dkt = tl.load(at, mask=r_ok[:, None] & n_ok[None, :], other=0.0)
        if HALF:
            ut = tl.load(u + n[None, :] * S + s[:, None], mask=n_ok[None, :] & s_ok[:, None], other=0.0).to(tl.float32)
            acc = _product(ut, tl.trans(dkt), acc, PRECISION)
        else:
            ut = tl.load(u + n[:, None] * S + s[None, :], mask=n_ok[:, None] & s_ok[None, :], other=0.0).to(tl.float32)
            acc = tl.dot(dkt, ut, acc, input_precision=PRECISION)
    if HALF:
        acc = tl.trans(acc)
    dm_at = dm + (tl.program_id(1).to(tl.int64) * n_rows + r[:, None]) * S + s[None, :]
    tl.store(dm_at, acc, mask=r_ok[:, None] & s_ok[None, :])
