"""Triton kernels that lay images of few channels out for a convolution by rows; ``rows`` says why."""

from __future__ import annotations

from monai_crossd.ops.fused.language import jit, tl

__all__ = ["pad_kernel", "spread_kernel"]


@jit("x_h", "x_w", "pad_h", "pad_w")
def pad_kernel(
    x, out, channels, x_h, x_w, x_sb, x_sc, x_sh, x_sw, pad_h, pad_w, out_w, values,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``out[b, h, w, c] = x[b, c, h - pad_h, w - pad_w]``, zero outside of ``x``, for a block of an image's values."""
    b, at = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c, pixel = at % C, at // C
    h, w = pixel // out_w - pad_h, pixel % out_w - pad_w
    inside = (at < values) & (c < channels) & (h >= 0) & (h < x_h) & (w >= 0) & (w < x_w)
    value = tl.load(x + b * x_sb + c * x_sc + h * x_sh + w * x_sw, mask=inside, other=0.0)
    tl.store(out + b * values + at, value, mask=at < values)


@jit("rows", "parts")
def spread_kernel(
    k, rows_of_k, rows, channels, parts, n_values,
    BACK: tl.constexpr, K: tl.constexpr, C: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``rows_of_k[b, i, o, j C + c] = k[b, i K + j, o, c]``, else zero; ``BACK`` from there, a sum of ``parts``."""
    b, at = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if BACK:  # in the order of k
        c, o, tap = at % channels, at // channels % rows, at // (channels * rows)
        source = rows_of_k + b * parts * (K * rows * R) + ((tap // K) * rows + o) * R + (tap % K) * C + c
        value = tl.zeros((BLOCK,), tl.float32)
        for _ in range(parts):
            value += tl.load(source, mask=at < n_values, other=0.0).to(tl.float32)
            source += K * rows * R
        tl.store(k + b * n_values + at, value.to(k.dtype.element_ty), mask=at < n_values)
    else:
        c, j, o, i = at % C, at % R // C, at // R % rows, at // (R * rows)
        inside = (at < n_values) & (c < channels) & (j < K)
        source = ((i * K + j) * rows + o) * channels + c
        value = tl.load(k + b * (K * K * rows * channels) + source, mask=inside, other=0.0)
        tl.store(rows_of_k + b * n_values + at, value, mask=at < n_values)
