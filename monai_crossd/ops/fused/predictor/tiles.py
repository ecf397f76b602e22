"""What the predictor's Triton kernels do to a tile, forward and backward; ``kernels`` has the symbols."""

from __future__ import annotations

from monai_crossd.ops.fused.language import jit, tl

COUNTS = ("W", "tiles", "run")  # columns of an image, its tiles, and those of a program; see ``jit``


@jit()
def _pixels(tile, BLOCK_P: tl.constexpr, WIDE: tl.constexpr):
    """Numbers of a tile's pixels in their image, in 64 bits where an image has 2**31 elements or more."""
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    if WIDE:
        p = p.to(tl.int64)
    return p


@jit()
def _places(p, W, sh, sw, FLAT: tl.constexpr):
    """Where pixels ``p`` of an image lie, (BLOCK_P,) elements from its first."""
    return p * sw if FLAT else (p // W) * sh + (p % W) * sw


@jit()
def _offsets(p, c, W, sc, sh, sw, FLAT: tl.constexpr, WIDE: tl.constexpr):
    """Where pixels ``p`` and channels ``c`` of an image lie, (BLOCK_P, BLOCK_C) elements from its first."""
    if WIDE:
        c = c.to(tl.int64)
    return _places(p, W, sh, sw, FLAT)[:, None] + c[None, :] * sc


@jit()
def _share(program, run, tiles, all_tiles):
    """A program's first tile and the one behind its last, its first image and how many it has."""
    first, last = program * run, tl.minimum(program * run + run, all_tiles)
    return first, last, first // tiles, (last + tiles - 1) // tiles - first // tiles


@jit()
def _part(first, last, image, tiles):
    """The same tiles within one image."""
    return tl.maximum(first - image * tiles, 0), tl.minimum(last - image * tiles, tiles)


@jit()
def _stacked(pointer, step, inside, count, BLOCK: tl.constexpr):
    """``count`` rows of numbers, each ``step`` elements behind the other, (BLOCK, BLOCK_P) in float32, zeros outside.

    Loaded row by row, so that a thread gets all rows of its pixel; as one tile it would get some of many pixels.
    """
    rows = tl.arange(0, BLOCK)
    tile = tl.zeros((BLOCK, inside.shape[0]), tl.float32)
    for row in tl.static_range(BLOCK):
        one = tl.load(pointer, mask=inside, other=0.0).to(tl.float32)
        tile = tl.where(rows[:, None] == row, one[None, :], tile)
        pointer += tl.minimum(tl.maximum(count - 1 - row, 0), 1) * step  # behind the last row that one again
    return tl.where(rows[:, None] < count, tile, 0.0)


@jit()
def _planes(x_ptr, p, P, C, W, sc, sh, sw, FLAT: tl.constexpr, BLOCK_C: tl.constexpr):
    """A tile of an image of few channels, (BLOCK_C, BLOCK_P) in float32, zeros outside."""
    return _stacked(x_ptr + _places(p, W, sh, sw, FLAT), sc, p < P, C, BLOCK_C)


@jit()
def _hidden(n, p, P, N):
    """Where hidden values of a tile lie, (BLOCK_N, BLOCK_P) elements from the image's first, and which are inside."""
    return n[:, None].to(p.dtype) * P + p[None, :], (n[:, None] < N) & (p[None, :] < P)


@jit()
def _load_hidden(h_ptr, p, P, N, BLOCK_N: tl.constexpr):
    """``h`` of a tile from memory, (BLOCK_N, BLOCK_P) in float32, zeros outside."""
    return _stacked(h_ptr + p, P, p < P, N, BLOCK_N)


@jit()
def _columns_of_w1(w1_ptr, n, C, N, BLOCK_C: tl.constexpr, dtype: tl.constexpr):
    """``W1^T`` as it is multiplied, (BLOCK_C, BLOCK_N) rounded to ``dtype``, zeros outside."""
    c = tl.arange(0, BLOCK_C)
    inside = (c[:, None] < C) & (n[None, :] < N)
    return tl.load(w1_ptr + n[None, :] * C + c[:, None], mask=inside, other=0.0).to(dtype).to(tl.float32)


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
def _load_and_cast(x_ptr, cast_ptr, at, inside):
    """Values of ``x``, rounded and kept where they are to be cast, zeros outside."""
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if cast_ptr is not None:
        x = x.to(cast_ptr.dtype.element_ty)
        tl.store(cast_ptr + at, x, mask=inside)
    return x


@jit()
def _project(
    x_ptr, cast_ptr, start, w1_ptr, p, P, C, W, N, sc, sh, sw,
    PLANES: tl.constexpr, FLAT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """``h = W1 x`` of a tile of the image that begins at ``start``, (BLOCK_N, BLOCK_P) in float32, zero outside of it.

    ``PLANES`` is the number of channels where they are few, else none: a matrix product would take sixteen, and a
    thread can do with its own pixel. With ``cast_ptr``, of the same strides, ``x`` of more channels is rounded to its
    dtype and kept.
    """
    n = tl.arange(0, BLOCK_N)
    x_ptr += start
    if cast_ptr is not None:
        cast_ptr += start
    if PLANES:
        h = tl.zeros((BLOCK_N, BLOCK_P), dtype=tl.float32)
        at = _places(p, W, sh, sw, FLAT)
        for c in tl.static_range(PLANES):
            x = tl.load(x_ptr + at, mask=p < P, other=0.0)
            w1 = tl.load(w1_ptr + n * C + c, mask=n < N, other=0.0).to(x.dtype)
            h += w1.to(tl.float32)[:, None] * x.to(tl.float32)[None, :]
            at += sc
    else:
        acc = tl.zeros((BLOCK_P, BLOCK_N), dtype=tl.float32)
        for first in range(0, C, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C)
            inside = (p[:, None] < P) & (c[None, :] < C)
            x = _load_and_cast(x_ptr, cast_ptr, _offsets(p, c, W, sc, sh, sw, FLAT, WIDE), inside)
            inside = (c[:, None] < C) & (n[None, :] < N)
            w1 = tl.load(w1_ptr + n[None, :] * C + c[:, None], mask=inside, other=0.0).to(x.dtype)  # W1^T
            acc += _dot(x, w1, PRECISION)
        h = tl.trans(acc)
    return h


@jit()
def _store_hidden(h_ptr, h, n, p, P, N):
    """``h`` of a tile into memory; as it is then."""
    stored = h.to(h_ptr.dtype.element_ty)
    at, inside = _hidden(n, p, P, N)
    tl.store(h_ptr + at, stored, mask=inside)
    return stored.to(tl.float32)


@jit()
def _features(h, mean, slope, beta, w2):
    """``h - mean``, ``y`` and ``z = relu(y)``, all (BLOCK_N, BLOCK_P), and ``f``, four times (BLOCK_P,).

    Hidden values come first: where none of a matrix product is near, a thread then has all those of its pixel. The
    four features stay apart here and below: as an axis of a tile they would be copied to every thread of a row.
    """
    deviation = h - mean[:, None]
    y = deviation * slope[:, None] + beta[:, None]
    z, f = _outputs(y, w2)
    return deviation, y, z, f


@jit()
def _outputs(y, w2):
    """``z = relu(y)`` and ``f``."""
    z = tl.where(y < 0.0, 0.0, y)  # keeps NaN, as torch does
    f = (
        tl.sum(z * w2[0][:, None], axis=0), tl.sum(z * w2[1][:, None], axis=0),
        tl.sum(z * w2[2][:, None], axis=0), tl.sum(z * w2[3][:, None], axis=0),
    )  # fmt: skip
    return z, f


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
    """``df``, four times (BLOCK_P,), and ``dy`` (BLOCK_N, BLOCK_P), zero outside of the image."""
    df = (
        _feature_gradient(inside, f[0], image[0][0], image[0][1], image[0][2]),
        _feature_gradient(inside, f[1], image[1][0], image[1][1], image[1][2]),
        _feature_gradient(inside, f[2], image[2][0], image[2][1], image[2][2]),
        _feature_gradient(inside, f[3], image[3][0], image[3][1], image[3][2]),
    )
    dz = df[0][None, :] * w2[0][:, None] + df[1][None, :] * w2[1][:, None]
    dz += df[2][None, :] * w2[2][:, None] + df[3][None, :] * w2[3][:, None]
    return df, tl.where(y > 0.0, dz, 0.0)


@jit()
def _total(pointer, at, inside, parts, BLOCK_T: tl.constexpr):
    """Sums of rows of ``parts`` numbers, which are ``at`` in units of rows, zero where not ``inside``."""
    sums = tl.zeros((at.shape[0], BLOCK_T), dtype=tl.float32)
    for first in range(0, parts, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        known = inside[:, None] & (t[None, :] < parts)
        sums += tl.load(pointer + at[:, None] * parts + t[None, :], mask=known, other=0.0)
    return tl.sum(sums, axis=1)  # not within the loop, where Triton 3.6 fails to compile it


@jit()
def _store_bias_gradient(db2_ptr, dr_ptr, B, BLOCK_T: tl.constexpr):
    """The gradient to ``b2``: the weights of softmax pooling add up to one, and so do p (1 + f - r)."""
    j = tl.arange(0, 4)
    db2 = tl.zeros((4,), dtype=tl.float32)
    for first in range(0, B, BLOCK_T):
        b = first + tl.arange(0, BLOCK_T)
        db2 += tl.sum(tl.load(dr_ptr + b[:, None] * 4 + j[None, :], mask=b[:, None] < B, other=0.0), axis=0)
    tl.store(db2_ptr + j, db2)
