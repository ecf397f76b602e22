"""Triton kernels of mixed columns: what the convolution of small images by one product of matrices needs.

For odd ``K`` the operator is a product, ``M[b, t, (d, q)] = a[b, d] P[b, t, q]``: a weight for every depth ``d`` of the
knowledge base, and an operator in the plane, of its pixels ``q``. So

``y[b, o, p] = sum_d a[b, d] Y[b, p, o, d]``, ``Y[b, p, o, d] = sum_(q, c) U[o, c, (d, q)] z[b, p, q, c]`` and
``z[b, p, q, c] = sum_t P[b, t, q] x[b, c, source(p, t)]``.

``K`` times the multiplications of a convolution, but no image has a kernel of its own. ``a`` sums to one, which gives
``P`` from ``M``. With the symbols of ``conv_kernels`` and ``P`` output pixels, moved besides ``x``, ``y`` and ``U`` are
``e B P C T`` for ``z`` and ``4 B P O K`` for ``Y``, written and read; backward ``z`` again, its gradient, and the
gradient to the columns, each of that size, and ``e B P O K`` for the gradient to ``Y``. Channels vary fastest, for
whole lines of memory, and so they must in ``U``, which is turned for each pass.

To the shift along depth ``y`` has the derivative ``sum_d a'[b, d] Y[b, p, o, d]``, which is kept for backward.
"""

from __future__ import annotations

from monai_crossd.ops.fused.halves_kernels import rescaled, scale_of
from monai_crossd.ops.fused.language import jit, tl
from monai_crossd.ops.fused.operator_kernels import depth_factor

__all__ = [
    "columns_grad_kernel", "columns_kernel", "depth_grad_kernel", "depth_kernel", "fold_kernel", "scales_kernel",
]  # fmt: skip

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
def _rows(r, channels, Q: tl.constexpr):
    """Where rows ``(p, c)`` of an image start in its ``(P, Q, C)`` columns."""
    return r // channels * (Q * channels) + r % channels


@jit()
def _plane(m, t, q, K: tl.constexpr, PITCH: tl.constexpr):
    """Entries ``[t, q]`` of the operator in the plane of one image, zero outside of it."""
    Q: tl.constexpr = K * K
    at, inside = m + t * PITCH + q, (t < Q) & (q < Q)
    plane = tl.load(at, mask=inside, other=0.0)
    for d in tl.static_range(1, K):
        plane += tl.load(at + d * Q, mask=inside, other=0.0)
    return plane


@jit("y_w", "x_h", "x_w", *GEOMETRY)
def columns_kernel(
    x, m, scale, z, n_rows, channels, y_w, x_h, x_w, x_sb, x_sc, x_sh, x_sw,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    K: tl.constexpr, PITCH: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """``z`` of a block of rows ``(p, c)`` of one image, times ``scale[b]`` if there is one."""
    Q: tl.constexpr = K * K
    b = tl.program_id(1).to(tl.int64)
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    t, q = tl.arange(0, BLOCK_Q)[None, :], tl.arange(0, BLOCK_Q)[:, None]
    plane = _plane(m + b * (Q * PITCH), t, q, K, PITCH)  # (q, t)
    columns = _columns(
        x + b * x_sb, r, n_rows, channels, y_w, x_h, x_w, x_sc, x_sh, x_sw, stride_h, stride_w, pad_h, pad_w, dil_h,
        dil_w, K, BLOCK_Q,
    )  # fmt: skip
    zt = tl.dot(plane, columns, input_precision=PRECISION)
    if scale is not None:
        zt *= tl.load(scale + b)
    z_at = z + b * n_rows * Q + q * channels + _rows(r, channels, Q)[None, :]
    tl.store(z_at, zt.to(z.dtype.element_ty), mask=(r < n_rows)[None, :] & (q < Q))


@jit("y_w", "x_h", "x_w", *GEOMETRY)
def columns_grad_kernel(
    x, m, dz, dy_factor, w_factor, e, dp, n_rows, share, channels, y_w, x_h, x_w, x_sb, x_sc, x_sh, x_sw,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w,
    K: tl.constexpr, PITCH: tl.constexpr, NEED_X: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """A share of the rows of one image: ``dp[share, b, t, q]`` and the gradient to the columns, ``e[b, t, r]``.

    ``dz`` is meant times ``dy_factor[b]`` and ``w_factor[0]``, where there are factors.
    """
    Q: tl.constexpr = K * K
    b = tl.program_id(1).to(tl.int64)
    q, t = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_Q)[:, None]
    plane = _plane(m + b * (Q * PITCH), t, q[None, :], K, PITCH)  # (t, q)
    acc = tl.zeros((BLOCK_Q, BLOCK_Q), tl.float32)
    start = tl.program_id(0) * share
    for first in range(start, tl.minimum(start + share, n_rows), BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        r_ok = (r < n_rows)[None, :]
        dz_at = dz + b * n_rows * Q + (q * channels)[:, None] + _rows(r, channels, Q)[None, :]
        dzt = tl.load(dz_at, mask=r_ok & (q < Q)[:, None], other=0.0).to(tl.float32)  # (q, r)
        if dy_factor is not None:
            dzt = rescaled(dzt, tl.load(dy_factor + b), tl.load(w_factor))
        columns = _columns(
            x + b * x_sb, r, n_rows, channels, y_w, x_h, x_w, x_sc, x_sh, x_sw, stride_h, stride_w, pad_h, pad_w,
            dil_h, dil_w, K, BLOCK_Q,
        )  # fmt: skip
        acc = tl.dot(columns, tl.trans(dzt), acc, input_precision=PRECISION)
        if NEED_X:
            et = tl.dot(plane, dzt, input_precision=PRECISION)
            tl.store(e + (b * Q + t) * n_rows + r[None, :], et.to(e.dtype.element_ty), mask=r_ok & (t < Q))
    dp_at = dp + (tl.program_id(0) * tl.num_programs(1) + b) * (Q * Q) + t * Q + q[None, :]
    tl.store(dp_at, acc, mask=(t < Q) & (q < Q)[None, :])


@jit()
def depth_kernel(
    deep, r, factor, y, along, n_values, outputs, y_sb, y_sc, y_sp,
    K: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``y`` of a block of values ``(p, o)`` of one image from ``Y``, times ``factor[b]`` if there is one.

    ``KEEP`` writes the derivative to the shift along depth too, ``along[b, p, o]``.
    """
    b = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n_values
    sums, slopes = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for d in tl.static_range(K):
        weight, slope = depth_factor(r, b, d, K)
        value = tl.load(deep + (b * n_values + at) * K + d, mask=inside, other=0.0)
        sums += weight * value
        slopes += slope * value
    if factor is not None:
        times = tl.load(factor + b)
        sums, slopes = sums * times, slopes * times
    y_at = y + b * y_sb + at // outputs * y_sp + at % outputs * y_sc
    tl.store(y_at, sums.to(y.dtype.element_ty), mask=inside)
    if KEEP:
        tl.store(along + b * n_values + at, slopes.to(along.dtype.element_ty), mask=inside)


@jit()
def depth_grad_kernel(
    dy, r, along, largest, deep, factor, ds, n_values,
    K: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """From ``dy`` of a block of values of one image the gradient to ``Y``, and its part of that to the shift along
    depth, ``ds[b, block]``. With ``largest``, partial maxima of ``|dy|``, the former is scaled, and its factor stored.
    """
    block, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(dy + b * n_values + at, mask=at < n_values, other=0.0).to(tl.float32)
    slope = tl.load(along + b * n_values + at, mask=at < n_values, other=0.0).to(tl.float32)
    tl.store(ds + b * tl.num_programs(0) + block, tl.sum(value * slope, axis=0))
    scale = 1.0
    if largest is not None:
        scale, inverse = scale_of(tl.max(tl.load(largest + b * PARTS + tl.arange(0, PARTS)), axis=0))
        if block == 0:
            tl.store(factor + b, inverse)
    for i in tl.static_range(K):  # values (p, o, d), d fastest, so that they are stored side by side
        deep_at = (block * K + i) * BLOCK + tl.arange(0, BLOCK)
        inside = deep_at < n_values * K
        weight = tl.zeros((BLOCK,), tl.float32)
        for d in tl.static_range(K):
            one, _ = depth_factor(r, b, d, K)
            weight = tl.where(deep_at % K == d, one, weight)
        value = tl.load(dy + b * n_values + deep_at // K, mask=inside, other=0.0).to(tl.float32) * scale
        tl.store(deep + b * n_values * K + deep_at, (weight * value).to(deep.dtype.element_ty), mask=inside)


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
def _exponents(largest, largest_dy, b, images, MOST: tl.constexpr, PARTS: tl.constexpr):
    """Of the factors of columns and of the gradient to the output of some images, and whether one has only zeros."""
    top, top_dy = _most(largest, b, images, PARTS) * MOST, _most(largest_dy, b, images, PARTS)
    _, inverse = scale_of(top)
    _, inverse_dy = scale_of(top_dy)
    return _exponent(inverse), _exponent(inverse_dy), (top == 0.0) | (top_dy == 0.0)


@jit("images")
def scales_kernel(
    largest, w_factor, largest_dy, scale, factor, images,
    MOST: tl.constexpr, PARTS: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """``scale[b]`` of all columns, and what products with them are to be multiplied by.

    Without ``largest_dy`` every image has its own, ``factor[b]``, which takes in ``w_factor[0]``; where that leaves the
    range of float32, the scale takes the rest. With it all have one, ``factor[0]``, so that products with the gradient
    to the output, of whose images it has partial maxima, add up. Columns are at most ``MOST`` times the images.
    """
    together = -126
    if largest_dy is not None:
        for first in range(0, images, BLOCK_B):
            b = first + tl.arange(0, BLOCK_B)
            of_x, of_dy, none = _exponents(largest, largest_dy, b, images, MOST, PARTS)
            together = tl.maximum(together, tl.max(tl.where(none | (b >= images), -126, of_x + of_dy), axis=0))
        together = tl.minimum(together, 127)
        tl.store(factor, _power(together))
    for first in range(0, images, BLOCK_B):
        b = first + tl.arange(0, BLOCK_B)
        if largest_dy is not None:
            of_x, of_dy, none = _exponents(largest, largest_dy, b, images, MOST, PARTS)
            found = tl.minimum(of_dy - together, -of_x)  # as much as fits, where the product is zero anyway
        else:
            _, inverse = scale_of(_most(largest, b, images, PARTS) * MOST)
            exponent = _exponent(inverse) + _exponent(tl.load(w_factor))
            rest = tl.maximum(-126 - exponent, 0)
            found = -_exponent(inverse) - rest
            tl.store(factor + b, _power(exponent + rest), mask=b < images)
        tl.store(scale + b, _power(found), mask=b < images)
