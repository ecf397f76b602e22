"""Triton kernel that reads boxes of pixels by the GPU's tensor memory accelerator; ``boxes`` says what for."""

from __future__ import annotations

from monai_crossd.ops.fused.images.halves_kernels import rescaled
from monai_crossd.ops.fused.language import jit, tl

__all__ = ["box_conv_kernel"]


@jit("y_h", "y_w", "off_h", "off_w", "step_h", "step_w")
def box_conv_kernel(
    x, k, x_factor, k_factor, y, rows, red, tiles, tiles_m, tiles_w, y_h, y_w, y_sb, y_sc, y_sh, y_sw,
    off_h, off_w, step_h, step_w, K: tl.constexpr, AHEAD: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``y[b, m, p] = sum_(tap, c) k[b, tap, m, c] x[b, c, p + off + tap step]``, a box of pixels at a time.

    ``x`` is described as ``(B, H, W, C)``, of which what is outside of an image is zero, and ``k`` as ``(B T M, C)``.
    A program takes every ``programs``-th tile; ``AHEAD`` reads from one to the next, and takes memory beside what turns
    the result. Images are meant times ``x_factor[b]`` and kernels times ``k_factor[0]``, where there are factors.
    """
    blocks_c = tl.cdiv(red, BLOCK_C)
    steps = K * K * blocks_c
    tl.assume(steps > 0)  # see conv_kernel
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=AHEAD):
        m_first, box = tile % tiles_m * BLOCK_M, tile // tiles_m
        w_first, box = box % tiles_w * BLOCK_W, box // tiles_w
        tiles_h = tl.cdiv(y_h, BLOCK_H)
        h_first, b = box % tiles_h * BLOCK_H, box // tiles_h
        acc = tl.zeros((BLOCK_M, BLOCK_H * BLOCK_W), tl.float32)
        for i in range(steps):
            tap, c = i // blocks_c, i % blocks_c * BLOCK_C
            at_h, at_w = h_first + off_h + tap // K * step_h, w_first + off_w + tap % K * step_w
            xt = x.load([b, at_h, at_w, c]).reshape(BLOCK_H * BLOCK_W, BLOCK_C)
            kt = k.load([(b * (K * K) + tap) * rows + m_first, c])
            acc = tl.dot(kt, tl.trans(xt), acc)
        p, m = tl.arange(0, BLOCK_H * BLOCK_W), m_first + tl.arange(0, BLOCK_M)
        h, w = h_first + p // BLOCK_W, w_first + p % BLOCK_W
        found = tl.trans(acc)  # pixels as rows, as conv_kernel stores them
        if x_factor is not None:
            found = rescaled(found, tl.load(x_factor + b), tl.load(k_factor))
        y_at = y + b.to(tl.int64) * y_sb + (h * y_sh + w * y_sw)[:, None] + m[None, :] * y_sc
        inside = ((h < y_h) & (w < y_w))[:, None] & (m < rows)[None, :]
        tl.store(y_at, found.to(y.dtype.element_ty), mask=inside)
