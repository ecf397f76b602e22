from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from monai_crossd.ops import crossd_conv2d, crossd_conv_transpose2d, shift_operator, shifted_kernels
from monai_crossd.ops.per_image import ConvArguments, conv_per_image
from monai_crossd.ops.per_image.function import PART

ARGUMENTS = [
    dict(zip(("size", "stride", "padding", "dilation", "groups"), values, strict=True))
    for values in itertools.chain(
        itertools.product((1, 2, 3, 5), ((1, 1), (2, 1)), ((0, 0), (1, 2)), ((1, 1),), (1, 2)),
        [(3, (2, 2), (2, 2), (2, 1), 1), (4, (1, 3), (0, 1), (1, 2), 2), (7, (2, 2), (3, 3), (1, 1), 1)],
    )
]
FORMS = ["grouped", "each", "matrices", "columns"]
BACKENDS = [*FORMS, "unfold"]
ONE_GROUP = ("matrices", "columns")
ALSO_TRANSPOSED = ["grouped", "unfold"]


@pytest.fixture(params=["whole", "in parts"])
def batch_in(request, monkeypatch):
    """The batch in one call, and one image a call."""
    if request.param == "in parts":
        monkeypatch.setitem(PART, "cpu", 1)


def inputs(batch=3, c0=6, c1=4, size=3, image=(11, 12), dtype=torch.float64):
    weight = torch.randn(c0, c1, size, size, size, dtype=dtype, requires_grad=True)
    s = (1 + 0.7 * torch.randn(batch, 3, dtype=dtype)).requires_grad_()
    return torch.randn(batch, 4, *image, dtype=dtype, requires_grad=True), weight, s


def one_by_one(function, x, weight, s, **arguments):
    kernels = shifted_kernels(weight, s, weight.shape[-1])
    return torch.cat([function(x[i : i + 1], kernels[i], **arguments) for i in range(len(x))])


def assert_same(ours, theirs, *tensors):
    assert_close(ours, theirs)
    grad = torch.randn_like(theirs)
    both = (torch.autograd.grad(y, tensors, grad, materialize_grads=True) for y in (ours, theirs))  # K = 1 has no shift
    for a, b in zip(*both, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_conv_equals_one_call_an_image(backend, arguments, batch_in):
    arguments = dict(arguments)
    size, groups = arguments.pop("size"), arguments["groups"]
    x, weight, s = inputs(c1=4 // groups, size=size)
    if backend in ONE_GROUP and groups > 1:
        with pytest.raises(ValueError, match=f"`backend` '{backend}' needs `groups` 1, got 2; choose 'grouped'"):
            crossd_conv2d(x, weight, s, size, **arguments, backend=backend)
        return
    ours = crossd_conv2d(x, weight, s, size, **arguments, backend=backend)
    assert_same(ours, one_by_one(F.conv2d, x, weight, s, **arguments), x, weight, s)


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
def test_transposed_conv_equals_one_call_an_image(
    backend, size, stride, padding, output_padding, dilation, groups, batch_in
):
    x, weight, s = inputs(c0=4, c1=6 // groups, size=size, image=(5, 6))
    arguments = {"stride": stride, "padding": padding, "output_padding": output_padding}
    arguments |= {"dilation": dilation, "groups": groups}
    ours = crossd_conv_transpose2d(x, weight, s, size, **arguments, backend=backend)
    assert_same(ours, one_by_one(F.conv_transpose2d, x, weight, s, **arguments), x, weight, s)


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "cropped": lambda x: F.pad(x, (1, 2, 3, 0))[:, :, 3:, 1:-2],
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "one image expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_layouts(backend, layout, batch):
    x, weight, s = inputs(batch)
    x = LAYOUTS[layout](x)
    ours = crossd_conv2d(x, weight, s, 3, padding=(1, 1), backend=backend)
    assert_same(ours, one_by_one(F.conv2d, x, weight, s, padding=(1, 1)), x, weight, s)
    if backend in ALSO_TRANSPOSED:
        weight = weight.transpose(0, 1)
        ours = crossd_conv_transpose2d(x, weight, s, 3, (2, 2), backend=backend)
        assert_same(ours, one_by_one(F.conv_transpose2d, x, weight, s, stride=2), x, weight, s)


@pytest.mark.parametrize("function", [crossd_conv2d, crossd_conv_transpose2d])
def test_an_empty_batch_is_the_empty_part_of_a_full_one(function):
    x, weight, s = inputs(2, c0=4)
    empty = [x.detach()[:0].requires_grad_(), weight, s.detach()[:0].requires_grad_()]
    y = function(*empty, 3, (2, 2), (1, 1))
    assert_close(y, function(x, weight, s, 3, (2, 2), (1, 1))[:0])
    assert_close(torch.autograd.grad(y.sum(), empty), tuple(torch.zeros_like(part) for part in empty))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_output_may_be_changed_in_place(backend, batch_in):
    """As residual blocks do."""
    tensors = inputs()
    ours = crossd_conv2d(*tensors, 3, backend=backend)
    ours += 1
    assert_same(ours.relu_(), (one_by_one(F.conv2d, *tensors) + 1).relu(), *tensors)


@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("backend", FORMS)
def test_frozen_inputs(backend, frozen):
    tensors = list(inputs())
    tensors[frozen] = tensors[frozen].detach()
    others = [tensor for tensor in tensors if tensor.requires_grad]
    assert_same(crossd_conv2d(*tensors, 3, backend=backend), one_by_one(F.conv2d, *tensors), *others)


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivatives(backend):
    tensors = inputs(2, c0=2, image=(4, 5))
    assert torch.autograd.gradgradcheck(lambda *t: crossd_conv2d(*t, 3, padding=(1, 1), backend=backend), tensors)
    ours, theirs = (
        torch.autograd.grad(torch.autograd.grad(y.square().sum(), tensors[0], create_graph=True)[0].sum(), tensors[1])
        for y in (crossd_conv2d(*tensors, 3, backend=backend), one_by_one(F.conv2d, *tensors))
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("backend", FORMS)
def test_backward_keeps_no_kernels(backend):
    """What autograd saves is the three inputs, whatever the batch."""
    tensors, saved = inputs(8), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        conv_per_image(tensors[0], tensors[1], torch.randn(8, 9, 27).double(), ConvArguments(), backend)
    assert sorted(saved) == sorted([tensors[0].numel(), tensors[1].numel(), 8 * 9 * 27])


@pytest.mark.parametrize(
    ("side", "channels", "form"),
    [
        (5, 8, "columns"),
        (6, 8, "matrices"),
        (15, 8, "matrices"),
        (16, 8, "grouped"),
        (15, 7, "grouped"),
        (45, 7, "grouped"),
        (46, 7, "each"),
    ],
)
def test_the_form_is_chosen_by_pixels_and_channels(side, channels, form, monkeypatch):
    """The rules of a CPU, `pixels < K^3` and the others, at their edges."""
    x, weight, s = torch.randn(1, channels, side, side), torch.randn(6, channels, 3, 3, 3), torch.ones(1, 3)
    taken = []
    monkeypatch.setattr(
        "monai_crossd.ops.conv.conv_per_image", lambda *arguments: taken.append(arguments[-1]) or arguments[0]
    )
    crossd_conv2d(x, weight, s, 3, padding=(1, 1))
    assert taken == [form]


def test_unknown_backend():
    x, weight, s = inputs(c0=4)
    known = "`backend` must be 'auto', 'grouped', 'each', 'matrices', 'columns', 'unfold' or 'triton', got 'fast'"
    for function in (crossd_conv2d, crossd_conv_transpose2d):
        with pytest.raises(ValueError, match=known):
            function(x, weight, s, 3, backend="fast")
    for backend in ("each", "matrices", "columns", "triton"):
        with pytest.raises(ValueError, match=f"`backend` '{backend}' has no transposed form; choose 'grouped'"):
            crossd_conv_transpose2d(x, weight, s, 3, backend=backend)


def test_triton_gets_the_operator(monkeypatch):
    """The kernels have tests of their own in `test_fused_conv.py`."""
    x, weight, s = inputs(dtype=torch.float32)
    with pytest.raises(
        RuntimeError, match="`fused_conv2d` needs Triton and a GPU, got `x` on cpu; choose backend 'grouped'"
    ):
        crossd_conv2d(x, weight, s, 3, backend="triton")
    taken = []
    monkeypatch.setattr("monai_crossd.ops.fused.conv.operator.check", lambda *arguments: None)
    monkeypatch.setattr("monai_crossd.ops.fused.conv.operator.measured", lambda *arguments: None)
    monkeypatch.setattr("monai_crossd.ops.fused.conv.passes.convolve", lambda *arguments: taken.append(arguments))
    x = x.contiguous(memory_format=torch.channels_last)  # others would be turned by a kernel
    crossd_conv2d(x, weight, s, 3, (2, 2), (1, 1), backend="triton")
    assert_close(taken[0][2], shift_operator(s, 3))
    assert [list(pair) for pair in taken[0][5:8]] == [[2, 2], [1, 1], [1, 1]] and taken[0][8] == 1


@pytest.mark.parametrize("form, side", [("grouped", 8), ("each", 8), ("matrices", 8), ("columns", 4)])
def test_gradients_of_many_outputs_at_once(form, side):
    leaves = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, side, side), (4, 3, 3, 3, 3), (2, 9, 27))]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    y = conv_per_image(*leaves, ConvArguments(padding=(1, 1)), form)
    many = torch.randn(5, *y.shape, dtype=torch.float64)
    batched = torch.autograd.grad(y, leaves, many, is_grads_batched=True, retain_graph=True)
    for i, dy in enumerate(many):
        for one, all_of_them in zip(torch.autograd.grad(y, leaves, dy, retain_graph=True), batched, strict=True):
            torch.testing.assert_close(all_of_them[i], one)


@pytest.mark.parametrize("form", FORMS)
def test_another_default_device_changes_nothing(form):
    x, weight, operator = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3, 3), torch.randn(2, 9, 27)
    expected = conv_per_image(x, weight, operator, ConvArguments(), form)
    with torch.device("meta"):
        torch.testing.assert_close(conv_per_image(x, weight, operator, ConvArguments(), form), expected)


@pytest.mark.parametrize("size", [(1, 5), (2, 2)])
def test_images_smaller_than_the_kernel_are_refused(size):
    with pytest.raises(ValueError, match="larger than the kernel after padding"):
        conv_per_image(
            torch.randn(1, 3, *size), torch.randn(4, 3, 3, 3, 3), torch.randn(1, 9, 27), ConvArguments(), "grouped"
        )
