"""Triton kernels of mixed columns: what the convolution of small images by one product of matrices needs.

``y[b, o, p] = sum_(s, c) U[o, c, s] z[b, p, s, c]`` with ``z[b, p, s, c] = sum_t M[b, t, s] x[b, c, source(p, t)]``:
``K`` times the multiplications of a convolution, but no image has a kernel of its own. With the symbols of
``conv_kernels`` and ``P`` output pixels, moved besides ``x``, ``y`` and ``U`` are ``e B P C S`` for ``z``, written and
read, and backward twice that for ``z`` again and its gradient, and ``2 e B P C T`` for the gradient to the columns.
Channels vary fastest, for whole lines of memory, and so they must in ``U``, which is turned for each pass.
"""

from __future__ import annotations

from monai_crossd.ops.fused.halves_kernels import rescaled, scale_of
from monai_crossd.ops.fused.language import jit, tl

__all__ = ["columns_grad_kernel", "columns_kernel", "fold_kernel", "scale_kernel", "scales_kernel"]

GEOMETRY = tuple(f"{name}_{axis}" for name in ("stride", "pad", "dil") for axis in "hw")


@jit()
def _columns(
    x, r, n_rows, channels, y_w, x_h, x_w, x_sc, x_sh, x_sw, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    K: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Columns of an image as (BLOCK_T, rows) in float32, a row ``r`` being an output pixel and a channel."""
    t = tl.arange(0, BLOCK_T)[:, None]
    p, c = r // channels, r % channels
    h = (p // y_w * stride_h - pad_h)[None, :] + t // K * dil_h
    w = (p % y_w * stride_w - pad_w)[None, :] + t % K * dil_w
    inside = (r < n_rows)[None, :] & (t < K * K) & (h >= 0) & (h < x_h) & (w >= 0) & (w < x_w)
    return tl.load(x + (c * x_sc)[None, :] + h * x_sh + w * x_sw, mask=inside, other=0.0).to(tl.float32)


@jit()
def _rows(r, channels, S: tl.constexpr):
    """Where rows ``(p, c)`` of an image start in its ``(P, S, C)`` columns."""
    return r // channels * (S * channels) + r % channels


@jit("y_w", "x_h", "x_w", *GEOMETRY)
def columns_kernel(
    x, m, scale, z, n_rows, channels, y_w, x_h, x_w, x_sb, x_sc, x_sh, x_sw,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    K: tl.constexpr, PITCH: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """``z`` of a block of rows ``(p, c)`` of one image, times ``scale[b]`` if there is one."""
    S: tl.constexpr = K * K * K
    b = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    t, s = tl.arange(0, BLOCK_T)[None, :], tl.arange(0, BLOCK_S)[:, None]
    m_at = m + b * (K * K * PITCH) + t * PITCH + s
    mt = tl.load(m_at, mask=(t < K * K) & (s < PITCH), other=0.0)  # (BLOCK_S, BLOCK_T)
    columns = _columns(
        x + b * x_sb, r, n_rows, channels, y_w, x_h, x_w, x_sc, x_sh, x_sw, stride_h, stride_w, pad_h, pad_w, dil_h,
        dil_w, K, BLOCK_T,
    )  # fmt: skip
    zt = tl.dot(mt, columns, input_precision=PRECISION)
    if scale is not None:
        zt *= tl.load(scale + b)
    z_at = z + b * n_rows * S + s * channels + _rows(r, channels, S)[None, :]
    tl.store(z_at, zt.to(z.dtype.element_ty), mask=(r < n_rows)[None, :] & (s < S))


@jit("y_w", "x_h", "x_w", *GEOMETRY)
def columns_grad_kernel(
    x, m, dz, dy_factor, w_factor, e, dm, n_rows, share, channels, y_w, x_h, x_w, x_sb, x_sc, x_sh, x_sw,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    K: tl.constexpr, PITCH: tl.constexpr, NEED_X: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """A share of the rows of one image: ``dm[share, b, t, s]`` and the gradient to the columns, ``e[b, t, r]``.

    ``dz`` is meant times ``dy_factor[b]`` and ``w_factor[0]``, where there are factors.
    """
    S: tl.constexpr = K * K * K
    b = tl.program_id(1).to(tl.int64)
    s, t = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_T)[:, None]
    m_at = m + b * (K * K * PITCH) + t * PITCH + s[None, :]
    mt = tl.load(m_at, mask=(t < K * K) & (s < PITCH)[None, :], other=0.0)  # (BLOCK_T, BLOCK_S)
    acc = tl.zeros((BLOCK_T, BLOCK_S), tl.float32)
    start = tl.program_id(0) * share
    for first in range(start, tl.minimum(start + share, n_rows), BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        r_ok = (r < n_rows)[None, :]
        dz_at = dz + b * n_rows * S + (s * channels)[:, None] + _rows(r, channels, S)[None, :]
        dzt = tl.load(dz_at, mask=r_ok & (s < S)[:, None], other=0.0).to(tl.float32)  # (BLOCK_S, BLOCK_R)
        if dy_factor is not None:
            dzt = rescaled(dzt, tl.load(dy_factor + b), tl.load(w_factor))
        columns = _columns(
            x + b * x_sb, r, n_rows, channels, y_w, x_h, x_w, x_sc, x_sh, x_sw, stride_h, stride_w, pad_h, pad_w,
            dil_h, dil_w, K, BLOCK_T,
        )  # fmt: skip
        acc = tl.dot(columns, tl.trans(dzt), acc, input_precision=PRECISION)
        if NEED_X:
            et = tl.dot(mt, dzt, input_precision=PRECISION)
            tl.store(e + (b * (K * K) + t) * n_rows + r[None, :], et.to(e.dtype.element_ty), mask=r_ok & (t < K * K))
    dm_at = dm + (tl.program_id(0) * tl.num_programs(1) + b) * (K * K * S) + t * S + s[None, :]
    tl.store(dm_at, acc, mask=(t < K * K) & (s < S)[None, :])


@jit("y_h", "y_w", "x_w", *GEOMETRY)
def fold_kernel(
    e, dx, n_values, n_rows, channels, y_h, y_w, x_w, x_sb, x_sc, x_sh, x_sw,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``dx`` of a block of pixels and channels of one image: the sum over taps of the columns that read them."""
    b = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    q, c = at // channels, at % channels
    h, w = q // x_w, q % x_w
    acc = tl.zeros((BLOCK,), tl.float32)
    for t in tl.static_range(K * K):
        from_h, from_w = h + pad_h - t // K * dil_h, w + pad_w - t % K * dil_w
        p_h, p_w = from_h // stride_h, from_w // stride_w
        hit = (from_h >= 0) & (from_w >= 0) & (p_h * stride_h == from_h) & (p_w * stride_w == from_w)
        hit = hit & (p_h < y_h) & (p_w < y_w) & (at < n_values)
        row = (b * (K * K) + t) * n_rows + (p_h * y_w + p_w) * channels + c
        acc += tl.load(e + row, mask=hit, other=0.0).to(tl.float32)
    dx_at = dx + b * x_sb + c * x_sc + h * x_sh + w * x_sw
    tl.store(dx_at, acc.to(dx.dtype.element_ty), mask=at < n_values)


@jit()
def _exponent(power):
    return (power.to(tl.int32, bitcast=True) >> 23) - 127


@jit()
def _power(exponent):
    """Two to an exponent, in the range of float32; below that, zero."""
    return (tl.minimum(tl.maximum(exponent + 127, 0), 254) << 23).to(tl.float32, bitcast=True)


@jit()
def _most(largest, b, images, PARTS: tl.constexpr):
    """The largest value of some images."""
    at = largest + b[:, None] * PARTS + tl.arange(0, PARTS)[None, :]
    return tl.max(tl.load(at, mask=(b < images)[:, None], other=0.0), axis=1)


@jit()
def _exponents(largest, largest_dy, b, most, images, PARTS: tl.constexpr):
    """Of the factors of columns and of the gradient to the output of some images, and whether one has only zeros."""
    top, top_dy = _most(largest, b, images, PARTS) * most, _most(largest_dy, b, images, PARTS)
    _, inverse = scale_of(top)
    _, inverse_dy = scale_of(top_dy)
    return _exponent(inverse), _exponent(inverse_dy), (top == 0.0) | (top_dy == 0.0)


@jit("images")
def scales_kernel(
    largest, bounds, w_factor, largest_dy, scale, factor, images,
    T: tl.constexpr, PARTS: tl.constexpr, BOUNDS: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """``scale[b]`` of all columns, and what products with them are to be multiplied by.

    Without ``largest_dy`` every image has its own, ``factor[b]``, which takes in ``w_factor[0]``; where that leaves the
    range of float32, the scale takes the rest. With it all have one, ``factor[0]``, so that products with the gradient
    to the output, of whose images it has partial maxima, add up.
    """
    most = tl.max(tl.load(bounds + BOUNDS + tl.arange(0, BOUNDS)), axis=0) * T
    together = -126
    if largest_dy is not None:
        for first in range(0, images, BLOCK_B):
            b = first + tl.arange(0, BLOCK_B)
            of_x, of_dy, none = _exponents(largest, largest_dy, b, most, images, PARTS)
            together = tl.maximum(together, tl.max(tl.where(none | (b >= images), -126, of_x + of_dy), axis=0))
        together = tl.minimum(together, 127)
        tl.store(factor, _power(together))
    for first in range(0, images, BLOCK_B):
        b = first + tl.arange(0, BLOCK_B)
        if largest_dy is not None:
            of_x, of_dy, none = _exponents(largest, largest_dy, b, most, images, PARTS)
            found = tl.minimum(of_dy - together, -of_x)  # as much as fits, where the product is zero anyway
        else:
            _, inverse = scale_of(_most(largest, b, images, PARTS) * most)
            exponent = _exponent(inverse) + _exponent(tl.load(w_factor))
            rest = tl.maximum(-126 - exponent, 0)
            found = -_exponent(inverse) - rest
            tl.store(factor + b, _power(exponent + rest), mask=b < images)
        tl.store(scale + b, _power(found), mask=b < images)


@jit()
def scale_kernel(y, factor, n_values, BLOCK: tl.constexpr):
    """A block of values of one image times its factor, in place."""
    b = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y_at = y + b * n_values + at
    tl.store(y_at, tl.load(y_at, mask=at < n_values) * tl.load(factor + b), mask=at < n_values)
