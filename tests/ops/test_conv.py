from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from monai_crossd.ops import conv2d_per_sample, conv_transpose2d_per_sample

ARGUMENTS = [
    dict(zip(("size", "stride", "padding", "dilation", "groups"), values, strict=True))
    for values in itertools.chain(
        itertools.product((1, 2, 3, 5), ((1, 1), (2, 1)), ((0, 0), (1, 2)), ((1, 1),), (1, 2)),
        [(3, (2, 2), (2, 2), (2, 1), 1), (4, (1, 3), (0, 1), (1, 2), 2)],
    )
]


def one_by_one(function, x, kernels, **arguments):
    return torch.cat([function(x[i : i + 1], kernels[i], **arguments) for i in range(len(x))])


@pytest.mark.parametrize("backend", ["grouped", "unfold"])
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_conv_equals_one_call_a_sample(backend, arguments):
    arguments = dict(arguments)
    size, groups = arguments.pop("size"), arguments["groups"]
    x = torch.randn(3, 4, 11, 12, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(3, 6, 4 // groups, size, size, dtype=torch.float64, requires_grad=True)
    ours = conv2d_per_sample(x, kernels, **arguments, backend=backend)
    theirs = one_by_one(F.conv2d, x, kernels, **arguments)
    assert_close(ours, theirs)
    grad = torch.randn_like(theirs)
    assert_close(torch.autograd.grad(ours, (x, kernels), grad), torch.autograd.grad(theirs, (x, kernels), grad))


@pytest.mark.parametrize("backend", ["grouped", "unfold"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("stride", "padding", "output_padding"), [((1, 1), (0, 0), (0, 0)), ((2, 3), (1, 0), (1, 2))])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_conv_equals_one_call_a_sample(backend, size, stride, padding, output_padding, groups):
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(3, 4, 6 // groups, size, size, dtype=torch.float64, requires_grad=True)
    arguments = {"stride": stride, "padding": padding, "output_padding": output_padding, "groups": groups}
    ours = conv_transpose2d_per_sample(x, kernels, **arguments, backend=backend)
    theirs = one_by_one(F.conv_transpose2d, x, kernels, **arguments)
    assert_close(ours, theirs)
    grad = torch.randn_like(theirs)
    assert_close(torch.autograd.grad(ours, (x, kernels), grad), torch.autograd.grad(theirs, (x, kernels), grad))


@pytest.mark.parametrize("make", [lambda x: x.to(memory_format=torch.channels_last), lambda x: x.flip(2)[:, :, ::2]])
def test_strided_input(make):
    x, kernels = make(torch.randn(2, 4, 10, 9)), torch.randn(2, 6, 4, 3, 3)
    assert_close(conv2d_per_sample(x, kernels), one_by_one(F.conv2d, x, kernels))


def test_empty_batch():
    kernels = torch.zeros(0, 6, 4, 3, 3)
    assert conv2d_per_sample(torch.zeros(0, 4, 8, 9), kernels).shape == (0, 6, 6, 7)
    transposed = conv_transpose2d_per_sample(torch.zeros(0, 6, 8, 9), kernels, (2, 2))
    assert transposed.shape == (0, 4, 17, 19)


def test_unknown_backend():
    with pytest.raises(ValueError, match="`backend` must be 'auto', 'grouped' or 'unfold', got 'fast'"):
        conv2d_per_sample(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 1, 1, 1), backend="fast")
