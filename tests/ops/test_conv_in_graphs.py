"""The convolution within graphs of torch.compile is that of eager mode."""

from __future__ import annotations

import pytest
import torch
from graphs import our_operators, recorder
from torch.testing import assert_close

from monai_crossd import CrossDConv, CrossDConvTranspose
from monai_crossd.ops import shift_operator
from monai_crossd.ops.per_image import FORMS, ConvArguments, conv_per_image
from monai_crossd.ops.per_image.operator import conv_in_graph

TRANSPOSED = ConvArguments((2, 1), (1, 0), (1, 2), True, (1, 0), 2)
PLAIN = ConvArguments((2, 1), (1, 0), (1, 2))
CASES = [(form, PLAIN) for form in FORMS] + [("grouped", PLAIN._replace(groups=2)), ("grouped", TRANSPOSED)]


def inputs(conv, memory_format=torch.contiguous_format, dtype=torch.float32):
    x = torch.randn(3, 4, 9, 8, dtype=dtype).contiguous(memory_format=memory_format)
    weight = torch.randn(*((4, 3) if conv.transposed else (6, 4 // conv.groups)), 3, 3, 3, dtype=dtype)
    operator = shift_operator(torch.randn(3, 3, dtype=dtype), 3)
    return [t.requires_grad_() for t in (x, weight, operator)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("form", "conv"), CASES)
def test_the_operator_keeps_torchs_rules(form, conv, memory_format):
    tensors = inputs(conv, memory_format)
    arguments = *map(list, conv[:3]), conv.transposed, list(conv.output_padding), conv.groups, form
    torch.library.opcheck(torch.ops.monai_crossd.conv_per_image, (*tensors, *arguments))
    with torch.no_grad():
        dy = torch.randn_like(conv_in_graph(*tensors, conv, form))
        for needs_x in (True, False):
            backward = (dy, *tensors, *arguments, needs_x)
            torch.library.opcheck(torch.ops.monai_crossd.conv_per_image_backward, backward)


@pytest.mark.parametrize(("form", "conv"), CASES)
def test_is_the_eager_convolution(form, conv):
    tensors = inputs(conv, dtype=torch.float64)
    ours, theirs = conv_in_graph(*tensors, conv, form), conv_per_image(*tensors, conv, form)
    assert_close(ours, theirs)
    dy = torch.randn_like(theirs)
    for one, expected in zip(*(torch.autograd.grad(y, tensors, dy) for y in (ours, theirs)), strict=True):
        assert_close(one, expected)


@pytest.mark.parametrize(("kind", "arguments"), [(CrossDConv, (2, 4, 3, 1, 1)), (CrossDConvTranspose, (2, 4, 2, 2))])
@pytest.mark.parametrize("side", [6, 20])
def test_a_compiled_layer_is_the_eager_one(kind, arguments, side):
    torch._dynamo.reset()
    names, record = recorder()
    layer, x = kind(*arguments, dtype=torch.float64), torch.randn(2, 2, side, side, dtype=torch.float64)
    for backend in (record, "aot_eager"):
        found = []
        for run in (layer, torch.compile(layer, fullgraph=True, backend=backend)):
            leaf = x.clone().requires_grad_()
            y = run(leaf)
            found.append([y, *torch.autograd.grad(y.square().sum(), (leaf, *layer.parameters()))])
        assert_close(*found)
    assert our_operators(names) == ["monai_crossd.conv_per_image"]


def test_images_smaller_than_the_kernel_are_refused():
    torch._dynamo.reset()
    with pytest.raises(Exception, match="`x` must be larger than the kernel after padding"):
        torch.compile(CrossDConv(2, 4, 5), backend="aot_eager")(torch.randn(2, 2, 3, 3))


def test_second_derivatives_are_refused():
    tensors = inputs(PLAIN)
    (dx,) = torch.autograd.grad(conv_in_graph(*tensors, PLAIN, "grouped").square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"has no second derivative; call the layer without torch\.compile"):
        dx.sum().backward()
