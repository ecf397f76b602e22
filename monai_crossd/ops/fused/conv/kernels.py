"""Triton kernels of the convolution whose kernel is mixed per image from one knowledge base.

``y[b] = conv2d(x[b], k[b])`` with ``k[b, t, o, c] = sum_s M[b, t, s] U[o, c, s]``. Below ``B`` is the batch, ``C`` and
``O`` are input and output channels, ``N = O C/groups``, ``T = K^2``, ``S = K^3``; ``X = C H W`` and ``Y = O H' W'`` are
the values of an image before and after, and ``e`` and ``u`` are the bytes of a value of ``x`` and of ``U``.

Floors of a layer, every tensor crossing the memory bus once, and what is moved here beyond the floor:

===================  =====================  ============================  ================================
what                 plain conv2d           this operation, at least      this operation, here, besides
===================  =====================  ============================  ================================
forward bytes        e(BX + BY + NT)        e(BX + BY) + uNS + 4BTS       2eBNT: k written and read
forward operations   2BYTC/groups           2BYTC/groups + 2BNTS          none
backward bytes       e(2BX + BY + 2NT)      e(2BX + BY) + 2uNS + 8BTS     5eBNT: k and dk written, k read
                                                                          once and dk twice; eBY: dy read
                                                                          twice; U read by every 64 rows of
                                                                          dk, mostly from the cache
backward operations  4BYTC/groups           4BYTC/groups + 4BNTS          2BNTS: k mixed again
===================  =====================  ============================  ================================

At ``B = 32``, ``O = C = 512``, ``K = 3``, 7x7 pixels and bfloat16, ``k`` is 151 MB next to 28 MB of float32 ``U`` and
3.2 MB of ``x`` and ``y``: late layers are bound by ``k``, early ones by ``x``, ``y`` and the multiplications. That taps
read ``x`` again, and blocks of pixels ``k``, is left to the L2 cache: programs of an image are neighbors.

Where float32 is multiplied as ``halves``, ``k`` has two bytes a value and ``dk`` four; besides, ``x`` forward and both
``x`` and ``dy`` backward are read and written once more, in half, and ``x`` forward and ``dy`` once before for their
range.
"""

from __future__ import annotations

from monai_crossd.ops.fused.images.halves_kernels import rescaled
from monai_crossd.ops.fused.language import jit, tl

__all__ = ["conv_kernel", "wgrad_kernel"]

GEOMETRY = tuple(f"{name}_{axis}" for name in ("stride", "pad", "dil", "tap_step") for axis in "hw")


@jit()
def _taps(first, stride, pad, dil, tap_step, K: tl.constexpr, TRANSPOSED: tl.constexpr):
    """One axis: pixel ``u`` reads ``u mul + off + j step`` for tap ``tap + j tap_step``, ``j`` from 0 to ``taps``.

    Transposed, pixel ``first + u stride`` reads ``(first + u stride + pad - t dil) / stride`` for tap ``t`` where that
    is whole: for one ``first`` always the same taps, equally far apart.
    """
    mul, off, step, tap, taps = stride, -pad, dil, 0, K
    if TRANSPOSED:
        mul, taps = 1, 0
        for i in tl.static_range(K):
            hit = (first + pad - (K - 1 - i) * dil) % stride == 0
            tap = tl.where(hit, K - 1 - i, tap)
            taps += hit.to(tl.int32)
        off = (first + pad - tap * dil) // stride
        step = -(tap_step * dil // stride)
    return mul, off, step, tap, taps


@jit()
def _inside(at, size):
    """``0 <= at < size`` by one comparison."""
    return at.to(tl.uint32, bitcast=True) < size.to(tl.uint32)


@jit("x_h", "x_w", "y_h", "y_w", *GEOMETRY)
def conv_kernel(
    x, k, x_factor, k_factor, y, rows, red, groups, y_h, y_w, x_h, x_w, x_sb, x_sc, x_sh, x_sw, y_sb, y_sc, y_sh, y_sw,
    stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, tap_step_h, tap_step_w,
    K_H: tl.constexpr, K_W: tl.constexpr, UNIT: tl.constexpr, TRANSPOSED: tl.constexpr,
    FLAT: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``y[b, m, p] = sum_(tap, c) k[b, tap, m, c] x[b, c, source(p, tap)]``: output channels by pixels of an image.

    Transposed, the pixels of one program are those of one class, ``first::stride`` on both axes: such a class is a
    convolution of stride 1 with a part of the taps. Strides ``x_sh`` and ``x_sw`` are in ``UNIT``s of values.
    Images are meant times ``x_factor[b]`` and kernels times ``k_factor[0]``, where there are factors.
    """
    pid, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first_h, first_w, every_h, every_w = 0, 0, 1, 1
    if TRANSPOSED:
        first_h, first_w, every_h, every_w = (
            tl.program_id(2) // stride_w,
            tl.program_id(2) % stride_w,
            stride_h,
            stride_w,
        )
        y_h = (y_h - first_h + stride_h - 1) // stride_h
        y_w = (y_w - first_w + stride_w - 1) // stride_w
    mul_h, off_h, step_h, tap_h, taps_h = _taps(first_h, stride_h, pad_h, dil_h, tap_step_h, K_H, TRANSPOSED)
    mul_w, off_w, step_w, tap_w, taps_w = _taps(first_w, stride_w, pad_w, dil_w, tap_step_w, K_W, TRANSPOSED)
    n_pix = y_h * y_w
    blocks_m, blocks_n = tl.cdiv(rows, BLOCK_M), tl.num_programs(0) // (tl.cdiv(rows, BLOCK_M) * groups)
    g = pid // (blocks_m * blocks_n)
    m = (pid % blocks_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    p = (pid // blocks_m % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    y_w = tl.maximum(y_w, 1)  # a class may have no pixel
    h, w = p // y_w, p % y_w
    taps = taps_h * taps_w  # a class may have none: then one step finds nothing
    h0 = tl.where((p < n_pix) & (taps > 0), h * mul_h + off_h, -(1 << 30))[None, :]  # outside of x for every tap
    w0 = (w * mul_w + off_w)[None, :]
    m_ok = (m < rows)[:, None] | EVEN
    pixel = (h0 * x_sh + w0 * x_sw) * UNIT
    tap_size = groups * rows * red
    x_at = x + b * x_sb + g * red * x_sc
    k_at = k + b * (K_H * K_W) * tap_size + (g * rows + m)[:, None] * red
    blocks_k = tl.cdiv(red, BLOCK_K)
    taps_w, red_of_taps = tl.maximum(taps_w, 1), tl.where(taps > 0, red, 0)
    steps = tl.maximum(tl.cdiv(taps * red, BLOCK_K) if FLAT else taps * blocks_k, 1)
    tl.assume(steps > 0)  # or else ptxas makes every product wait for the last
    WIDE: tl.constexpr = BLOCK_M < 64  # warpgroups multiply 64 rows: below that, pixels are the rows
    acc = tl.zeros((BLOCK_N, BLOCK_M) if WIDE else (BLOCK_M, BLOCK_N), tl.float32)
    for i in range(steps):
        if FLAT:  # a step runs over (tap, c)
            tc = i * BLOCK_K + tl.arange(0, BLOCK_K)
            j, c = tc // red, tc % red
            c_ok = j < taps
            j_h, j_w = (j // taps_w)[:, None], (j % taps_w)[:, None]
            tap = (tap_h + j // taps_w * tap_step_h) * K_W + tap_w + j % taps_w * tap_step_w
        else:  # a step has one tap
            j = i // blocks_k
            c = (i % blocks_k) * BLOCK_K + tl.arange(0, BLOCK_K)
            c_ok = c < red_of_taps if TRANSPOSED else (c < red) | EVEN
            j_h, j_w = j // taps_w, j % taps_w
            tap = (tap_h + j_h * tap_step_h) * K_W + tap_w + j_w * tap_step_w
        kt = tl.load(k_at + (tap * tap_size + c)[None, :], mask=m_ok & c_ok[None, :], other=0.0)
        x_ok = _inside(h0 + j_h * step_h, x_h) & _inside(w0 + j_w * step_w, x_w) & c_ok[:, None]
        away = (j_h * step_h * x_sh + j_w * step_w * x_sw) * UNIT
        xt = tl.load(x_at + away + (c[:, None] * x_sc + pixel), mask=x_ok, other=0.0)
        if WIDE:
            acc = tl.dot(tl.trans(xt), tl.trans(kt), acc, input_precision=PRECISION)
        else:
            acc = tl.dot(kt, xt, acc, input_precision=PRECISION)
    if not WIDE:  # stored with pixels as rows: where neither axis is known to lie side by side, rows count as such
        acc = tl.trans(acc)
    if x_factor is not None:
        acc = rescaled(acc, tl.load(x_factor + b), tl.load(k_factor))
    to = (first_h + h * every_h) * y_sh + (first_w + w * every_w) * y_sw
    y_at = y + b * y_sb + to[:, None] + (g * rows + m)[None, :] * y_sc
    tl.store(y_at, acc.to(y.dtype.element_ty), mask=(p < n_pix)[:, None] & (m < rows)[None, :])


@jit("n_pix", "y_w", "x_h", "x_w", "stride_h", "stride_w", "pad_h", "pad_w", "dil_h", "dil_w", "share", "parts")
def wgrad_kernel(
    x, dy, x_factor, dy_factor, dk, rows, red, groups, n_pix, y_w, x_h, x_w, x_sb, x_sc, x_sh, x_sw,
    y_sb, y_sc, y_sh, y_sw, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, share, parts,
    K_H: tl.constexpr, K_W: tl.constexpr, UNIT: tl.constexpr, FLAT: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``dk[b, part, tap, m, c] = sum_p dy[b, m, p] x[b, c, source(p, tap)]`` over the part's share of pixels.

    Strides ``x_sh`` and ``x_sw`` are in ``UNIT``s of values. Both are meant times their factor of ``b``.
    """
    pid, b, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    blocks_n = tl.cdiv(K_H * K_W * red, BLOCK_N) if FLAT else K_H * K_W * tl.cdiv(red, BLOCK_N)
    blocks_m = tl.cdiv(rows, BLOCK_M)
    g = pid // (blocks_m * blocks_n)
    m = (pid // blocks_n % blocks_m) * BLOCK_M + tl.arange(0, BLOCK_M)
    if FLAT:  # columns are (tap, c)
        tc = (pid % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
        tap, c = tc // red, tc % red
        c_ok = tap < K_H * K_W
        j_h, j_w = (tap // K_W)[:, None], (tap % K_W)[:, None]
    else:  # a program has one tap
        tap = pid % (K_H * K_W)
        c = (pid % blocks_n) // (K_H * K_W) * BLOCK_N + tl.arange(0, BLOCK_N)
        c_ok = (c < red) | EVEN
        j_h, j_w = tap // K_W, tap % K_W
    m_ok = (m < rows)[:, None] | EVEN
    dy_at = dy + b * y_sb + (g * rows + m)[:, None] * y_sc
    x_at = x + b * x_sb + (g * red + c)[:, None] * x_sc
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first, end = part * share, tl.minimum((part + 1) * share, n_pix)
    tl.assume(first < end)  # see conv_kernel
    for p0 in range(first, end, BLOCK_K):
        p = p0 + tl.arange(0, BLOCK_K)
        h = (p.to(tl.uint32, bitcast=True) // y_w.to(tl.uint32)).to(tl.int32, bitcast=True)[None, :]
        w, p_ok = p[None, :] - h * y_w, (p < n_pix)[None, :]
        dyt = tl.load(dy_at + (h * y_sh + w * y_sw), mask=m_ok & p_ok, other=0.0)  # (BLOCK_M, BLOCK_K)
        s_h, s_w = h * stride_h - pad_h + j_h * dil_h, w * stride_w - pad_w + j_w * dil_w
        x_ok = _inside(s_h, x_h) & _inside(s_w, x_w) & p_ok & c_ok[:, None]
        xt = tl.load(x_at + (s_h * x_sh + s_w * x_sw) * UNIT, mask=x_ok, other=0.0)  # (BLOCK_N, BLOCK_K)
        acc = tl.dot(dyt, tl.trans(xt), acc, input_precision=PRECISION)
    if x_factor is not None:
        acc = rescaled(acc, tl.load(x_factor + b), tl.load(dy_factor + b))
    tap_size = groups * rows * red
    dk_at = dk + (b * parts + part) * (K_H * K_W) * tap_size + (g * rows + m)[:, None] * red
    dk_at += (tap * tap_size + c)[None, :]
    tl.store(dk_at, acc.to(dk.dtype.element_ty), mask=m_ok & c_ok[None, :])
