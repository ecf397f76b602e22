"""Triton kernels that scale float32 to float16; ``halves`` says why."""

from __future__ import annotations

from monai_crossd.ops.fused.language import jit, tl

__all__ = ["bounds_kernel", "halve_kernel", "largest_kernel", "rescaled", "scale_of"]


@jit()
def scale_of(largest):
    """The power of two that brings ``largest`` to 2**14 or up to twice that, and what it is to be multiplied by then.

    Read off the exponent, so that both are exact; those of float32 that are below 2**-112 stay smaller.
    """
    exponent = largest.to(tl.int32, bitcast=True) >> 23
    exponent = tl.minimum(268 - exponent, 253)
    return (exponent << 23).to(tl.float32, bitcast=True), ((254 - exponent) << 23).to(tl.float32, bitcast=True)


@jit()
def rescaled(x, one, other):
    """``x`` times both factors, the smaller first: neither product leaves the range of float32 before the result."""
    return x * tl.minimum(one, other) * tl.maximum(one, other)


@jit()
def _finite(x):
    """``|x|``, zero where that is infinite or NaN."""
    x = tl.abs(x)
    return tl.where(x < float("inf"), x, 0.0)


@jit()
def _place(at, channels, x_w, x_sc, x_sh, x_sw, DENSE: tl.constexpr):
    """Where the values ``(p, c)`` of an image lie."""
    if not DENSE:
        p, c = at // channels, at % channels
        at = c * x_sc + p // x_w * x_sh + p % x_w * x_sw
    return at


@jit("x_w")
def largest_kernel(
    x, largest, n_values, share, channels, x_w, x_sb, x_sc, x_sh, x_sw,
    DENSE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """``largest[b, i]``: that of ``|x|`` of a share of an image's values."""
    i, b = tl.program_id(0) % PARTS, (tl.program_id(0) // PARTS).to(tl.int64)
    most = tl.zeros((BLOCK,), tl.float32)
    for first in range(i * share, tl.minimum((i + 1) * share, n_values), BLOCK):
        at = first + tl.arange(0, BLOCK)
        place = _place(at, channels, x_w, x_sc, x_sh, x_sw, DENSE)
        most = tl.maximum(most, _finite(tl.load(x + b * x_sb + place, mask=at < n_values, other=0.0)))
    tl.store(largest + b * PARTS + i, tl.max(most, axis=0))


@jit("x_w", "blocks")
def halve_kernel(
    x, y, largest, factor, n_values, blocks, channels, x_w, x_sb, x_sc, x_sh, x_sw,
    DENSE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """``y[b, p, c]``, scaled, of a block of an image's values, and the image's factor."""
    i, b = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    scale, inverse = scale_of(tl.max(tl.load(largest + b * PARTS + tl.arange(0, PARTS)), axis=0))
    at = i * BLOCK + tl.arange(0, BLOCK)
    place = _place(at, channels, x_w, x_sc, x_sh, x_sw, DENSE)
    value = tl.load(x + b * x_sb + place, mask=at < n_values, other=0.0) * scale
    tl.store(y + b * n_values + at, value.to(tl.float16), mask=at < n_values)
    if i == 0:
        tl.store(factor + b, inverse)


@jit("n_rows", "share_m")
def bounds_kernel(
    u, m, found, n_u, share_u, n_rows, share_m,
    PITCH: tl.constexpr, BLOCK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """``found[0, i]`` and ``found[1, i]``: largest ``|u|``, and largest sum of ``|m[r]|``, of a share of both."""
    i = tl.program_id(0)
    most = tl.zeros((BLOCK,), tl.float32)
    for first in range(i * share_u, tl.minimum((i + 1) * share_u, n_u), BLOCK):
        at = first + tl.arange(0, BLOCK)
        most = tl.maximum(most, _finite(tl.load(u + at, mask=at < n_u, other=0.0).to(tl.float32)))
    tl.store(found + i, tl.max(most, axis=0))
    if m is not None:
        s, sums = tl.arange(0, BLOCK_S), tl.zeros((BLOCK_R,), tl.float32)
        for first in range(i * share_m, tl.minimum((i + 1) * share_m, n_rows), BLOCK_R):
            r = first + tl.arange(0, BLOCK_R)
            inside = (r < n_rows)[:, None] & (s < PITCH)[None, :]
            values = _finite(tl.load(m + r[:, None] * PITCH + s[None, :], mask=inside, other=0.0))
            sums = tl.maximum(sums, tl.sum(values, axis=1))
        tl.store(found + tl.num_programs(0) + i, tl.max(sums, axis=0))
