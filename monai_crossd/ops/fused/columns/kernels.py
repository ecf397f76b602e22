"""Triton kernels of mixed columns: what the convolution of small images by one product of matrices needs, ``K = 3``.

For odd ``K`` the shift operator is a product over the axes of the knowledge base, and a factor depends on a difference
modulo ``K``: ``M[b, (i, k), (d, j, m)] = D(1 - d - s0) D(i - j - s1) D(k - m - s2)`` with the ``D`` of ``shift``. So

``y[b, o, p] = sum_d D(1 - d - s0) Y[b, p, o, d]``,
``Y[b, p, o, d] = sum_(j, m, c) U[o, c, d, j, m] z[b, p, j, m, c]`` and
``z[b, p, j, m, c] = sum_(i, k) D(i - j - s1) D(k - m - s2) x[b, c, source(p, i, k)]``.

Three times the multiplications of a convolution, but no image has a kernel of its own. With the symbols of
``conv.kernels`` and ``P`` output pixels, moved besides ``x``, ``y`` and ``U`` are ``9 e B P C`` for ``z``, ``12 B P O``
for ``Y``, written and read; backward ``z`` again, its gradient, and the gradient to the columns of ``x``, each of that
size, and ``3 e B P O`` for the gradient to ``Y``. Channels vary fastest, for whole lines of memory, and so they must in
``U``, which is turned for each pass.

To ``s0`` the result has the derivative ``sum_d -D'(1 - d - s0) Y[b, p, o, d]``, which is kept for backward.
"""

from __future__ import annotations

from monai_crossd.ops.fused.images.halves_kernels import rescaled, scale_of
from monai_crossd.ops.fused.language import jit, tl
from monai_crossd.ops.fused.shift.kernels import shift_factors

__all__ = [
    "columns_grad_kernel", "columns_kernel", "depth_grad_kernel", "depth_kernel", "fold_kernel", "scales_kernel",
]  # fmt: skip

GEOMETRY = tuple(f"{name}_{axis}" for name in ("stride", "pad", "dil") for axis in "hw")


@jit()
def _pixel(x, h, w, x_h, x_w, x_sh, x_sw, ok):
    """Values of pixels, zero outside of the image."""
    inside = ok & (h >= 0) & (h < x_h) & (w >= 0) & (w < x_w)
    return tl.load(x + h * x_sh + w * x_sw, mask=inside, other=0.0).to(tl.float32)


@jit("y_w", "x_h", "x_w", *GEOMETRY)
def columns_kernel(
    x, r, scale, z, n_values, channels, y_w, x_h, x_w, x_sb, x_sc, x_sh, x_sw,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, BLOCK: tl.constexpr,
):  # fmt: skip
    """``z`` of a block of pixels and channels ``(p, c)`` of one image, times ``scale[b]`` if there is one."""
    b = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    p, c, ok = at // channels, at % channels, at < n_values
    h, w = p // y_w * stride_h - pad_h, p % y_w * stride_w - pad_w
    b0, b1, b2, _, _, _ = shift_factors(r, b, 1)
    c0, c1, c2, _, _, _ = shift_factors(r, b, 2)
    if scale is not None:
        times = tl.load(scale + b)
        b0, b1, b2 = b0 * times, b1 * times, b2 * times
    of_image, h1, h2, w1, w2 = x + b * x_sb + c * x_sc, h + dil_h, h + 2 * dil_h, w + dil_w, w + 2 * dil_w
    x00 = _pixel(of_image, h, w, x_h, x_w, x_sh, x_sw, ok)
    x01 = _pixel(of_image, h, w1, x_h, x_w, x_sh, x_sw, ok)
    x02 = _pixel(of_image, h, w2, x_h, x_w, x_sh, x_sw, ok)
    x10 = _pixel(of_image, h1, w, x_h, x_w, x_sh, x_sw, ok)
    x11 = _pixel(of_image, h1, w1, x_h, x_w, x_sh, x_sw, ok)
    x12 = _pixel(of_image, h1, w2, x_h, x_w, x_sh, x_sw, ok)
    x20 = _pixel(of_image, h2, w, x_h, x_w, x_sh, x_sw, ok)
    x21 = _pixel(of_image, h2, w1, x_h, x_w, x_sh, x_sw, ok)
    x22 = _pixel(of_image, h2, w2, x_h, x_w, x_sh, x_sw, ok)
    z_at = z + b * n_values * 9 + p * (9 * channels) + c
    for m in tl.static_range(3):  # a factor is numbered by the difference of its axis, modulo three
        v0, v1, v2 = c0 * x00 + c1 * x01 + c2 * x02, c0 * x10 + c1 * x11 + c2 * x12, c0 * x20 + c1 * x21 + c2 * x22
        to = z_at + m * channels
        tl.store(to, (b0 * v0 + b1 * v1 + b2 * v2).to(z.dtype.element_ty), mask=ok)
        tl.store(to + 3 * channels, (b2 * v0 + b0 * v1 + b1 * v2).to(z.dtype.element_ty), mask=ok)
        tl.store(to + 6 * channels, (b1 * v0 + b2 * v1 + b0 * v2).to(z.dtype.element_ty), mask=ok)
        c0, c1, c2 = c2, c0, c1


@jit("y_w", "x_h", "x_w", *GEOMETRY)
def columns_grad_kernel(
    x, r, dz, dy_factor, w_factor, e, ds, n_values, channels, y_w, x_h, x_w, x_sb, x_sc, x_sh, x_sw,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, NEED_X: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a block of pixels and channels of one image the gradient to the columns, ``e[b, (i, k), p, c]``, and its parts
    of those to ``s1`` and ``s2``, ``ds[b, :, block]``.

    ``dz`` is meant times ``dy_factor[b]`` and ``w_factor[0]``, where there are factors.
    """
    block, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    p, c, ok = at // channels, at % channels, at < n_values
    h, w = p // y_w * stride_h - pad_h, p % y_w * stride_w - pad_w
    b0, b1, b2, b0_1, b1_1, b2_1 = shift_factors(r, b, 1)
    c0, c1, c2, c0_1, c1_1, c2_1 = shift_factors(r, b, 2)
    of_image, z_at = x + b * x_sb + c * x_sc, dz + b * n_values * 9 + p * (9 * channels) + c
    dy_at = None if dy_factor is None else dy_factor + b
    z00, z01, z02 = _line(z_at, channels, dy_at, w_factor, ok)
    z10, z11, z12 = _line(z_at + 3 * channels, channels, dy_at, w_factor, ok)
    z20, z21, z22 = _line(z_at + 6 * channels, channels, dy_at, w_factor, ok)
    of_rows, of_columns = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(3):  # factors are numbered as above: c of the differences k, k - 1 and k - 2
        v0, v1, v2 = c0 * z00 + c2 * z01 + c1 * z02, c0 * z10 + c2 * z11 + c1 * z12, c0 * z20 + c2 * z21 + c1 * z22
        g0, g1 = c0_1 * z00 + c2_1 * z01 + c1_1 * z02, c0_1 * z10 + c2_1 * z11 + c1_1 * z12
        g2 = c0_1 * z20 + c2_1 * z21 + c1_1 * z22
        for i in tl.static_range(3):
            value = _pixel(of_image, h + i * dil_h, w + k * dil_w, x_h, x_w, x_sh, x_sw, ok)
            of_rows += value * (b0_1 * v0 + b2_1 * v1 + b1_1 * v2)
            of_columns += value * (b0 * g0 + b2 * g1 + b1 * g2)
            if NEED_X:
                to = e + (b * 9 + i * 3 + k) * n_values + at
                tl.store(to, (b0 * v0 + b2 * v1 + b1 * v2).to(e.dtype.element_ty), mask=ok)
            b0, b1, b2, b0_1, b1_1, b2_1 = b1, b2, b0, b1_1, b2_1, b0_1
        c0, c1, c2, c0_1, c1_1, c2_1 = c1, c2, c0, c1_1, c2_1, c0_1
    ds_at = ds + b * 2 * tl.num_programs(0) + block
    tl.store(ds_at, tl.sum(of_rows, axis=0))
    tl.store(ds_at + tl.num_programs(0), tl.sum(of_columns, axis=0))


@jit()
def _line(at, apart, factor, other_factor, ok):
    """Three values in float32, so far apart, times both factors, if there are any."""
    first = tl.load(at, mask=ok, other=0.0).to(tl.float32)
    second = tl.load(at + apart, mask=ok, other=0.0).to(tl.float32)
    third = tl.load(at + 2 * apart, mask=ok, other=0.0).to(tl.float32)
    if factor is not None:
        one, other = tl.load(factor), tl.load(other_factor)
        first, second, third = rescaled(first, one, other), rescaled(second, one, other), rescaled(third, one, other)
    return first, second, third


@jit()
def depth_kernel(
    deep, r, factor, y, along, n_values, outputs, y_sb, y_sc, y_sp, KEEP: tl.constexpr, BLOCK: tl.constexpr
):
    """``y`` of a block of values ``(p, o)`` of one image from ``Y``, times ``factor[b]`` if there is one.

    ``KEEP`` writes the derivative to ``s0`` too, ``along[b, p, o]``.
    """
    b = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n_values
    a0, a1, a2, a0_1, a1_1, a2_1 = shift_factors(r, b, 0)
    first, second, third = _line(deep + (b * n_values + at) * 3, 1, None, None, inside)
    y_found, along_found = a1 * first + a0 * second + a2 * third, a1_1 * first + a0_1 * second + a2_1 * third
    if factor is not None:
        times = tl.load(factor + b)
        y_found, along_found = y_found * times, along_found * times
    y_at = y + b * y_sb + at // outputs * y_sp + at % outputs * y_sc
    tl.store(y_at, y_found.to(y.dtype.element_ty), mask=inside)
    if KEEP:
        tl.store(along + b * n_values + at, along_found.to(along.dtype.element_ty), mask=inside)


@jit()
def depth_grad_kernel(dy, r, along, largest, deep, factor, ds, n_values, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """From ``dy`` of a block of values of one image the gradient to ``Y``, and its part of that to ``s0``,
    ``ds[b, block]``. With ``largest``, partial maxima of ``|dy|``, the former is scaled, and its factor stored.
    """
    block, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(dy + b * n_values + at, mask=at < n_values, other=0.0).to(tl.float32)
    slope = tl.load(along + b * n_values + at, mask=at < n_values, other=0.0).to(tl.float32)
    tl.store(ds + b * tl.num_programs(0) + block, tl.sum(value * slope, axis=0))
    a0, a1, a2, _, _, _ = shift_factors(r, b, 0)
    if largest is not None:
        scale, inverse = scale_of(tl.max(tl.load(largest + b * PARTS + tl.arange(0, PARTS)), axis=0))
        a0, a1, a2 = a0 * scale, a1 * scale, a2 * scale
        if block == 0:
            tl.store(factor + b, inverse)
    for i in tl.static_range(3):  # values (p, o, d), d fastest, so that they are stored side by side
        deep_at = (block * 3 + i) * BLOCK + tl.arange(0, BLOCK)
        inside = deep_at < n_values * 3
        weight = tl.where(deep_at % 3 == 0, a1, tl.where(deep_at % 3 == 1, a0, a2))
        value = tl.load(dy + b * n_values + deep_at // 3, mask=inside, other=0.0).to(tl.float32)
        tl.store(deep + b * n_values * 3 + deep_at, (weight * value).to(deep.dtype.element_ty), mask=inside)


@jit("y_h", "y_w", "x_w", *GEOMETRY)
def fold_kernel(
    e, dx, n_values, n_rows, channels, y_h, y_w, x_w, x_sb, x_sc, x_sh, x_sw,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, BLOCK: tl.constexpr,
):  # fmt: skip
    """``dx`` of a block of pixels and channels of one image: the sum over taps of the columns that read them."""
    b = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    q, c = at // channels, at % channels
    h, w = q // x_w, q % x_w
    acc = tl.zeros((BLOCK,), tl.float32)
    for t in tl.static_range(9):
        from_h, from_w = h + pad_h - t // 3 * dil_h, w + pad_w - t % 3 * dil_w
        p_h, p_w = from_h // stride_h, from_w // stride_w
        hit = (from_h >= 0) & (from_w >= 0) & (p_h * stride_h == from_h) & (p_w * stride_w == from_w)
        hit = hit & (p_h < y_h) & (p_w < y_w) & (at < n_values)
        row = (b * 9 + t) * n_rows + (p_h * y_w + p_w) * channels + c
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
