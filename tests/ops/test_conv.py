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


TRANSPOSED = [  # stride, padding, output_padding, dilation
    ((1, 1), (0, 0), (0, 0), (1, 1)),
    ((2, 3), (1, 0), (1, 2), (1, 1)),
    ((2, 1), (0, 2), (1, 1), (1, 2)),
    ((1, 2), (1, 1), (1, 2), (2, 3)),  # `output_padding` not below the stride but below the dilation
]


@pytest.mark.parametrize("backend", ["grouped", "unfold"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("stride", "padding", "output_padding", "dilation"), TRANSPOSED)
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_conv_equals_one_call_a_sample(backend, size, stride, padding, output_padding, dilation, groups):
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(3, 4, 6 // groups, size, size, dtype=torch.float64, requires_grad=True)
    arguments = {"stride": stride, "padding": padding, "output_padding": output_padding}
    arguments |= {"dilation": dilation, "groups": groups}
    ours = conv_transpose2d_per_sample(x, kernels, **arguments, backend=backend)
    theirs = one_by_one(F.conv_transpose2d, x, kernels, **arguments)
    assert_close(ours, theirs)
    grad = torch.randn_like(theirs)
    assert_close(torch.autograd.grad(ours, (x, kernels), grad), torch.autograd.grad(theirs, (x, kernels), grad))


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "cropped": lambda x: F.pad(x, (1, 2, 3, 0))[:, :, 3:, 1:-2],
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "one image expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["grouped", "unfold"])
def test_memory_layouts(backend, layout, batch):
    x = LAYOUTS[layout](torch.randn(batch, 4, 10, 9))
    kernels = LAYOUTS[layout](torch.randn(batch, 6 * 4, 3, 3)).unflatten(1, (6, 4))
    ours = conv2d_per_sample(x, kernels, padding=(1, 1), backend=backend)
    assert_close(ours, one_by_one(F.conv2d, x, kernels, padding=(1, 1)), rtol=1e-5, atol=1e-5)
    kernels = kernels.transpose(1, 2)
    ours = conv_transpose2d_per_sample(x, kernels, (2, 2), backend=backend)
    assert_close(ours, one_by_one(F.conv_transpose2d, x, kernels, stride=2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [conv2d_per_sample, conv_transpose2d_per_sample])
def test_an_empty_batch_is_the_empty_part_of_a_full_one(function):
    x, kernels = torch.randn(2, 4, 8, 9), torch.randn(2, 4, 4, 3, 3)
    empty = [x[:0].requires_grad_(), kernels[:0].requires_grad_()]
    y = function(*empty, (2, 2), (1, 1))
    assert_close(y, function(x, kernels, (2, 2), (1, 1))[:0])
    assert_close(torch.autograd.grad(y.sum(), empty), tuple(torch.zeros_like(part) for part in empty))


@pytest.mark.parametrize("function", [conv2d_per_sample, conv_transpose2d_per_sample])
def test_unknown_backend(function):
    with pytest.raises(ValueError, match="`backend` must be 'auto', 'grouped' or 'unfold', got 'fast'"):
        function(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 1, 1, 1), backend="fast")
