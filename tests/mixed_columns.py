"""Convolution by mixed columns from the predictor's four numbers, for the tests of its kernels."""

from __future__ import annotations

import torch

from monai_crossd.ops.fused.columns.launch import geometry
from monai_crossd.ops.fused.columns.passes import convolve_columns, gradients_of_columns
from monai_crossd.ops.fused.images.halves import measured
from monai_crossd.ops.fused.images.layout import empty_images, is_channels_last
from monai_crossd.ops.fused.images.turn import channels_last
from monai_crossd.ops.per_image import output_size


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, U, r, *conv):
        ctx.last, ctx.geometry = is_channels_last(x), geometry(*conv)
        shape = (len(x), len(U), *output_size(x, U.shape[2], *conv))
        y, along, x = empty_images(x, shape, ctx.last), empty_images(x, shape, True), channels_last(x)
        convolve_columns(x, U, r, measured(x, U, None), y, along, ctx.geometry)
        ctx.save_for_backward(x, U, r, along)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, U, r, along = ctx.saved_tensors
        grads = empty_images(x, x.shape, ctx.last), torch.empty_like(U), torch.empty_like(r)
        gradients_of_columns(dy.to(x.dtype), x, U, r, measured(x, U, None), along, *grads, ctx.geometry)
        return *grads, None, None, None


def by_columns(x, U, r, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    """``y[b] = conv2d(x[b], U M[b])`` with the operators ``M`` of ``r``; differentiable once."""
    return _Convolution.apply(x, U, r, stride, padding, dilation)
