"""What the predictor's Triton kernels do to a tile, forward and backward; ``predictor_kernels`` has the symbols."""

from __future__ import annotations

from monai_crossd.ops.fused.language import jit, tl


@jit()
def _pixels(tile, BLOCK_P: tl.constexpr, WIDE: tl.constexpr):
    """Numbers of a tile's pixels in their image, in 64 bits where an image has 2**31 elements or more."""
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    if WIDE:
        p = p.to(tl.int64)
    return p


@jit()
def _offsets(p, c, W, sc, sh, sw, FLAT: tl.constexpr, WIDE: tl.constexpr):
    """Where pixels ``p`` and channels ``c`` of an image lie, (BLOCK_P, BLOCK_C) elements from its first."""
    if WIDE:
        c = c.to(tl.int64)
    pixel = p * sw if FLAT else (p // W) * sh + (p % W) * sw
    return pixel[:, None] + c[None, :] * sc


@jit()
def _vector(pointer, n, N):
    """``N`` numbers as float32, zeros behind them."""
    return tl.load(pointer + n, mask=n < N, other=0.0).to(tl.float32)


@jit()
def _rows(pointer, n, N):
    """The four rows of ``W2``, each (N,) as float32, zeros behind them."""
    return (
        _vector(pointer, n, N), _vector(pointer + N, n, N), _vector(pointer + 2 * N, n, N),
        _vector(pointer + 3 * N, n, N),
    )  # fmt: skip


@jit()
def _dot(a, b, PRECISION: tl.constexpr):
    """``a b`` in float32; Triton's interpreter, for which ``ieee`` is, knows no product of bfloat16."""
    if PRECISION == "ieee":
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@jit()
def _project(
    x_ptr, w1_ptr, p, P, C, W, N, sc, sh, sw,
    FLAT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """``h = W1 x`` of a tile, (BLOCK_P, BLOCK_N) in float32, zero outside of the image."""
    n = tl.arange(0, BLOCK_N)
    h = tl.zeros((BLOCK_P, BLOCK_N), dtype=tl.float32)
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        inside = (p[:, None] < P) & (c[None, :] < C)
        x = tl.load(x_ptr + _offsets(p, c, W, sc, sh, sw, FLAT, WIDE), mask=inside, other=0.0)
        inside = (c[:, None] < C) & (n[None, :] < N)
        w1 = tl.load(w1_ptr + n[None, :] * C + c[:, None], mask=inside, other=0.0).to(x.dtype)  # W1^T
        h += _dot(x, w1, PRECISION)
    return h


@jit()
def _features(h, mean, invstd, gamma, beta, w2):
    """``xhat``, ``y`` and ``z = relu(y)``, all (BLOCK_P, BLOCK_N), and ``f``, four times (BLOCK_P,).

    The four features stay apart here and below: as an axis of a tile they would be copied to every thread of a row.
    """
    xhat = (h - mean[None, :]) * invstd[None, :]
    y = xhat * gamma[None, :] + beta[None, :]
    z = tl.where(y < 0.0, 0.0, y)  # keeps NaN, as torch does
    f = (
        tl.sum(z * w2[0][None, :], axis=1), tl.sum(z * w2[1][None, :], axis=1),
        tl.sum(z * w2[2][None, :], axis=1), tl.sum(z * w2[3][None, :], axis=1),
    )  # fmt: skip
    return xhat, y, z, f


@jit()
def _of_feature(dr_ptr, soft_ptr, B, at):
    """What ``df`` of one feature and one image depends on, which are ``at`` in (B, 4)."""
    top, scale, r = tl.load(soft_ptr + at), tl.load(soft_ptr + 4 * B + at), tl.load(soft_ptr + 8 * B + at)
    return top, scale * tl.load(dr_ptr + at), r


@jit()
def _of_image(dr_ptr, soft_ptr, B, b):
    """The same of all four features."""
    return (
        _of_feature(dr_ptr, soft_ptr, B, b * 4), _of_feature(dr_ptr, soft_ptr, B, b * 4 + 1),
        _of_feature(dr_ptr, soft_ptr, B, b * 4 + 2), _of_feature(dr_ptr, soft_ptr, B, b * 4 + 3),
    )  # fmt: skip


@jit()
def _feature_gradient(inside, f, top, scale, r):
    """``df`` of one feature, zero outside of the image."""
    return tl.where(inside, tl.exp(tl.where(inside, f - top, 0.0)) * scale * (1.0 + (f - r)), 0.0)


@jit()
def _feature_gradients(inside, y, f, image, w2):
    """``df``, four times (BLOCK_P,), and ``dy`` (BLOCK_P, BLOCK_N), zero outside of the image."""
    df = (
        _feature_gradient(inside, f[0], image[0][0], image[0][1], image[0][2]),
        _feature_gradient(inside, f[1], image[1][0], image[1][1], image[1][2]),
        _feature_gradient(inside, f[2], image[2][0], image[2][1], image[2][2]),
        _feature_gradient(inside, f[3], image[3][0], image[3][1], image[3][2]),
    )
    dz = df[0][:, None] * w2[0][None, :] + df[1][:, None] * w2[1][None, :]
    dz += df[2][:, None] * w2[2][None, :] + df[3][:, None] * w2[3][None, :]
    return df, tl.where(y > 0.0, dz, 0.0)
