from __future__ import annotations

import copy
import math
import pickle

import pytest
import reference
import torch
from torch import nn
from torch.testing import assert_close

from monai_crossd import CrossDConv, CrossDConvTranspose
from monai_crossd.ops import LIFTS, knowledge_base, lifted_kernel, rest_kernel


def restless(layer):
    """Predictors start at rest; give this one angles."""
    if layer.predictor is not None:
        nn.init.normal_(layer.predictor[3].weight)
        nn.init.normal_(layer.predictor[3].bias)
    return layer


def assert_same_gradients(ours, theirs, inputs):
    grad = torch.randn_like(ours)
    ours, theirs = torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad)
    assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_layer_is_the_literal_form_with_all_gradients(size, train):
    layer = restless(CrossDConv(4, 6, size, stride=2, padding=1, groups=2).double()).train(train)
    x = torch.randn(3, 4, 12, 11, dtype=torch.float64, requires_grad=True)
    ours, r = layer(x), reference.pooled(layer.predictor, x)
    theirs = reference.cross_d_conv2d(x, layer.weight, r, layer.bias, stride=2, padding=1, groups=2)
    assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert_same_gradients(ours, theirs, [x, *layer.parameters()])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", [2, 3])
def test_transposed_layer_is_the_literal_form_with_all_gradients(size, train):
    arguments = {"stride": (2, 3), "padding": 1, "output_padding": (0, 1), "groups": 2, "dilation": (1, 2)}
    layer = restless(CrossDConvTranspose(4, 6, size, **arguments).double()).train(train)
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    ours, r = layer(x), reference.pooled(layer.predictor, x)
    theirs = reference.cross_d_conv_transpose2d(x, layer.weight, r, layer.bias, **arguments)
    assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert_same_gradients(ours, theirs, [x, *layer.parameters()])


def test_gradcheck():
    layer = restless(CrossDConv(2, 2, 3, padding=1).double())
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_gradients_with_a_graph_are_those_without():
    layer = restless(CrossDConv(2, 2, 3, padding=1).double())
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    plain, graphed = (torch.autograd.grad(layer(x).square().sum(), x, create_graph=graph) for graph in (False, True))
    assert_close(*graphed, *plain)  # the shift depends on x too, and counts once


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 2, (1, 2), "same", "valid"])
@pytest.mark.parametrize(("size", "dilation", "groups", "bias"), [(3, 1, 1, True), (4, (1, 2), 2, False)])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own convolution
def test_arguments_mean_what_they_mean_to_conv2d(mode, padding, size, dilation, groups, bias):
    arguments = {"padding": padding, "dilation": dilation, "groups": groups, "bias": bias, "padding_mode": mode}
    layer = restless(CrossDConv(4, 6, (size, size), **arguments)).eval()
    plain = nn.Conv2d(4, 6, size, **arguments)
    x = torch.randn(2, 4, 12, 13)
    own = layer.kernel_2d(x)
    for i in range(2):
        plain.load_state_dict({"weight": own[i]} | ({"bias": layer.bias} if bias else {}))
        assert_close(layer(x)[i : i + 1], plain(x[i : i + 1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize(
    "arguments",
    [{"padding": 1, "stride": 2}, {"padding": "same", "padding_mode": "reflect"}, {"padding": "same", "dilation": 2}],
)
@pytest.mark.parametrize("size", [2, 3])
def test_volumes_see_conv3d_with_the_lifted_kernel(lift, arguments, size):
    layer = CrossDConv(2, 4, size, **arguments, lift=lift)
    plain = nn.Conv3d(2, 4, size, **arguments)
    plain.load_state_dict({"weight": lifted_kernel(layer.weight, lift), "bias": layer.bias})
    x = torch.randn(2, 2, 7, 8, 9)
    assert_close(layer(x), plain(x))


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize(("size", "stride", "padding", "output_padding"), [(2, 2, 0, 0), (3, 2, 1, 1), (1, 2, 0, 1)])
def test_transposed_form(lift, size, stride, padding, output_padding):
    arguments = {"stride": stride, "padding": padding, "output_padding": output_padding, "groups": 2}
    layer = restless(CrossDConvTranspose(4, 6, size, **arguments, lift=lift)).eval()
    plain2d, plain3d = nn.ConvTranspose2d(4, 6, size, **arguments), nn.ConvTranspose3d(4, 6, size, **arguments)
    x = torch.randn(2, 4, 5, 6)
    for i in range(2):
        plain2d.load_state_dict({"weight": layer.kernel_2d(x)[i], "bias": layer.bias})
        assert_close(layer(x)[i : i + 1], plain2d(x[i : i + 1]), rtol=1e-5, atol=1e-5)
    plain3d.load_state_dict({"weight": layer.kernel_3d(), "bias": layer.bias})
    volume = torch.randn(1, 4, 4, 5, 6)
    assert_close(layer(volume), plain3d(volume))


@pytest.mark.parametrize("lift", ["aligned", "inflated"])
@pytest.mark.parametrize(("stride", "dilation"), [(2, 2), (2, 3), (4, 2)])
def test_transposed_form_answers_to_constant_depth_as_to_slices_where_dilated(lift, stride, dilation):
    """Where stride and dilation have a divisor in common, slices between stay empty, as rows do in 2D."""
    layer = CrossDConvTranspose(2, 3, 4, stride=stride, dilation=dilation, bias=False, lift=lift)
    layer.weight.data = knowledge_base(torch.randn(2, 3, 4, 4), lift, layer.depth_stride)
    image = torch.randn(1, 2, 5, 6)
    inner = layer(image.unsqueeze(2).expand(-1, -1, 16, -1, -1))[:, :, 16:-16]
    slices = layer(image).unsqueeze(2).expand_as(inner).clone()
    slices[:, :, torch.arange(inner.shape[2]) % math.gcd(stride, dilation) != 0] = 0
    assert_close(inner, slices, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", [CrossDConv, CrossDConvTranspose])
def test_a_batch_is_its_samples_one_by_one(cls):
    layer, x = restless(cls(3, 4, 3)).eval(), torch.randn(5, 3, 9, 8)
    assert_close(layer(x), torch.cat([layer(x[i : i + 1]) for i in range(5)]), rtol=1e-5, atol=1e-6)


def test_kernel_of_one_has_no_predictor_and_is_conv2d():
    layer, plain = CrossDConv(3, 5, 1, stride=2), nn.Conv2d(3, 5, 1, stride=2)
    assert layer.predictor is None
    plain.load_state_dict({"weight": layer.weight[:, :, 0], "bias": layer.bias})
    x = torch.randn(2, 3, 7, 8)
    assert_close(layer(x), plain(x))
    assert_close(layer.kernel_2d(x)[1], plain.weight)


def test_a_new_layer_rests_and_can_leave():
    layer, x = CrossDConv(2, 3, 3), torch.randn(4, 2, 8, 8)
    assert_close(layer.kernel_2d(x), rest_kernel(layer.weight).expand(4, -1, -1, -1, -1))
    layer(x).square().sum().backward()
    angle = layer.predictor[3]
    assert angle.weight.grad[3].abs().sum() > 0 and angle.bias.grad[3] != 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("cls", [CrossDConv, CrossDConvTranspose])
def test_precision(cls, dtype, tolerance, rank):
    """Relative norm of the difference to float64, of the output and of the gradients."""
    layer = restless(cls(8, 8, 3, padding=1)).eval()
    layer.predictor[3].weight.data *= 0.1
    exact, layer = copy.deepcopy(layer).double(), layer.to(dtype)
    x = torch.randn(2, 8, *(12,) * rank, dtype=dtype, requires_grad=True)
    x_exact = x.detach().double().requires_grad_()
    y, y_exact = layer(x), exact(x_exact)
    grad = torch.randn_like(y)
    y.backward(grad)
    y_exact.backward(grad.double())
    pairs = [(y, y_exact), (x.grad, x_exact.grad), (layer.weight.grad, exact.weight.grad)]
    for ours, theirs in [*pairs, (layer.bias.grad, exact.bias.grad)]:
        assert ours.dtype == dtype
        assert (ours - theirs).norm() / theirs.norm() < tolerance


def test_autocast():
    layer, x = restless(CrossDConv(8, 8, 3, padding=1)).eval(), torch.randn(2, 8, 12, 12)
    layer.predictor[3].weight.data *= 0.1
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert layer.predictor(x).dtype == torch.float32
    assert y.dtype == torch.bfloat16
    assert (y.float() - layer(x)).norm() / y.float().norm() < 5e-2
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("cls", [CrossDConv, CrossDConvTranspose])
def test_copies_pickles_and_names(cls):
    layer, x = restless(cls(2, 3, 3)).eval(), torch.randn(2, 2, 8, 8)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
    norm = [f"predictor.1.{name}" for name in nn.BatchNorm2d(16).state_dict()]
    convs = [f"predictor.{i}.{name}" for i in (0, 3) for name in ("weight", "bias")]
    assert set(layer.state_dict()) == {"weight", "bias", *norm, *convs}
    assert "3, kernel_size=(3, 3), stride=(1, 1), padding=(0, 0)" in repr(layer)


REFUSED = [
    ({"in_channels": 0}, r"`in_channels` must be positive, got 0\."),
    ({"out_channels": 3, "groups": 2}, r"`out_channels` must be divisible by `groups`=2, got 3\."),
    ({"groups": 0}, r"`groups` must be positive, got 0\."),
    ({"kernel_size": 0}, r"`kernel_size` must be positive, got 0\."),
    ({"kernel_size": (3, 5)}, r"`kernel_size` must be square, a knowledge base is a cube, got \(3, 5\)\."),
    ({"kernel_size": (3, 3, 3)}, r"`kernel_size` must be one whole number or two"),
    ({"kernel_size": 3.5}, r"`kernel_size` must be one whole number or two \(rows, columns\), got 3\.5\."),
    ({"stride": (1.5, 1)}, r"`stride` must be one whole number or two \(rows, columns\), got \(1\.5, 1\)\."),
    ({"stride": 0}, r"`stride` must be positive, got 0\."),
    ({"dilation": (1, 0)}, r"`dilation` must be positive, got \(1, 0\)\."),
    ({"padding": -1}, r"`padding` must be 0 or more, got -1\."),
    ({"padding": "full"}, r"`padding` must be numbers, 'same' or 'valid', got 'full'\."),
    ({"padding": "same", "stride": 2}, r"`padding` 'same' needs `stride` 1, got stride \(2, 2\)"),
    ({"padding_mode": "mirror"}, r"`padding_mode` must be one of 'zeros', .*, got 'mirror'\."),
    ({"lift": "up"}, r"`lift` must be one of 'published', 'aligned', 'inflated', got 'up'\."),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=str)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossDConv(**({"in_channels": 2, "out_channels": 4, "kernel_size": 3} | arguments))


REFUSED_TRANSPOSED = [
    ({"padding_mode": "reflect"}, r"`padding_mode` of a transposed convolution must be 'zeros', got 'reflect'\."),
    ({"padding": "same"}, r"`padding` must be one whole number or two \(rows, columns\), got 'same'\."),
    ({"output_padding": -1}, r"`output_padding` must be 0 or more, got -1\."),
    (
        {"output_padding": (0, 2), "stride": 2},
        r"`output_padding` must be smaller than `stride` or `dilation`, got \(0, 2",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED_TRANSPOSED, ids=str)
def test_refused_arguments_of_the_transposed_form(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossDConvTranspose(2, 2, 3, **arguments)


@pytest.mark.parametrize("cls", [CrossDConv, CrossDConvTranspose])
@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8), (1, 1, 2, 8, 8, 8)])
def test_unbatched_input_is_refused(cls, shape):
    with pytest.raises(ValueError, match=rf"input must be images .* or volumes .*, got {len(shape)} dimensions"):
        cls(2, 2, 3)(torch.zeros(shape))


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_unequal_pairs_run_on_images_only(name, mode):
    layer = CrossDConv(2, 2, 3, **{name: (1, 2)}, padding_mode=mode)
    layer(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match=rf"`{name}` must be the same on both axes to run on volumes, got \(1, 2\)\."):
        layer(torch.zeros(1, 2, 8, 8, 8))


@pytest.mark.parametrize("name", ["stride", "padding", "output_padding", "dilation"])
def test_unequal_pairs_run_on_images_only_in_the_transposed_form(name):
    layer = CrossDConvTranspose(2, 2, 3, **({"stride": 3} | {name: (1, 2)}))
    layer(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match=rf"`{name}` must be the same on both axes to run on volumes, got \(1, 2\)\."):
        layer(torch.zeros(1, 2, 8, 8, 8))
