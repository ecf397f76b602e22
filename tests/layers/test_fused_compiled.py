"""Layers in graphs of torch.compile against the same layers in eager mode: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.utils.checkpoint
from fused import DEVICE, layer, needs_kernels
from graphs import our_operators, recorder
from predictors import parameters
from torch import nn
from torch.testing import assert_close

pytestmark = [
    pytest.mark.usefixtures("ieee"),
    needs_kernels,
]


@pytest.fixture(autouse=True)
def anew():
    torch._dynamo.reset()


def in_both(conv, x, **arguments):
    """Results of two calls in eager mode, and compiled: outputs, gradients, running statistics."""
    found = []
    for compiled in (False, True):
        one = copy.deepcopy(conv)
        run = torch.compile(one, fullgraph=True, backend="aot_eager", **arguments) if compiled else one
        results = []
        for images in (x, x.flip(0)):
            leaf = images.clone().requires_grad_()
            y = run(leaf)
            grads = torch.autograd.grad(y, [leaf, *one.parameters()], torch.linspace(-1, 1, y.numel()).view_as(y).to(y))
            results += [y.detach(), *grads]
        found.append([*results, *one.buffers()])
    return found


def assert_near(found, expected):
    """For what a library computes in one memory format and in the other."""
    for one, other in zip(found, expected, strict=True):
        assert (one.double() - other.double()).norm() <= 1e-5 * other.double().norm() + 1e-6


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "arguments", [{"stride": 2}, {"padding_mode": "reflect", "groups": 2}, {"dilation": 2}], ids=str
)
@pytest.mark.parametrize("channels_last", [True, False])
def test_compiled_is_eager(training, arguments, channels_last):
    conv = layer(outputs=16, padding=1, **arguments).train(training)
    x = torch.randn(3, 4, 7, 9, device=DEVICE)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    eager, compiled = in_both(conv, x)
    assert_close(compiled, eager)
    assert compiled[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("track", [True, False])
def test_small_images_of_many_channels(track):
    conv = layer(32, 80, padding=1)
    if not track:
        conv.predictor[1] = nn.BatchNorm2d(16, track_running_stats=False).to(DEVICE)
    assert_close(*in_both(conv, torch.randn(3, 32, 4, 4, device=DEVICE)))


def test_large_images_by_the_library(monkeypatch):
    monkeypatch.setattr("monai_crossd.ops.fused.conv.passes.is_dense", lambda *_: True)
    conv = layer(padding=1)
    for channels_last in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(2, 4, 6, 6, device=DEVICE).contiguous(memory_format=channels_last)
        eager, compiled = in_both(conv, x)
        assert_close(compiled, eager)
        assert compiled[0].is_contiguous(memory_format=torch.channels_last)  # as it is by other ways


@pytest.mark.skipif(DEVICE != "cuda", reason="CUDA graphs")
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # torch captures an empty one first
@pytest.mark.parametrize("dense", [False, True])
def test_steps_as_one_cuda_graph(dense, monkeypatch):
    monkeypatch.setattr("monai_crossd.ops.fused.conv.passes.is_dense", lambda *_: dense)
    eager = layer(16, 16, padding=1)
    conv = copy.deepcopy(eager)
    compiled = torch.compile(conv, fullgraph=True, mode="reduce-overhead")
    for x in torch.randn(5, 2, 16, 8, 8, device=DEVICE).unbind():
        found = []
        for net, run in ((eager, eager), (conv, compiled)):
            leaf = x.clone().requires_grad_()
            grads = torch.autograd.grad(run(leaf).square().sum(), (leaf, *net.parameters()))
            found.append([one.clone() for one in (*grads, *net.buffers())])
        (assert_near if dense else assert_close)(*found)


def test_batches_of_another_size_in_one_graph():
    conv = layer(padding=1).eval()
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((2, 4, 8, 9), (5, 4, 12, 10)):
        x = torch.randn(shape, device=DEVICE)
        assert_close(compiled(x), conv(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo asks for it
def test_cumulative_average():
    conv = layer(padding=1)
    conv.predictor[1].momentum = None
    eager, compiled = copy.deepcopy(conv), copy.deepcopy(conv)
    for x in torch.randn(3, 2, 4, 6, 6, device=DEVICE):
        eager(x)
        torch.compile(compiled, backend="aot_eager")(x)
    assert_close([*compiled.buffers()], [*eager.buffers()])


def test_without_gradients_statistics_move():
    conv = layer(padding=1)
    eager, compiled = copy.deepcopy(conv), copy.deepcopy(conv)
    x = torch.randn(2, 4, 6, 6, device=DEVICE)
    with torch.no_grad():
        assert_close(torch.compile(compiled, fullgraph=True, backend="aot_eager")(x), eager(x))
    assert_close([*compiled.buffers()], [*eager.buffers()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    conv, x = layer(padding=1), torch.randn(2, 4, 6, 6, device=DEVICE)
    compiled = torch.compile(copy.deepcopy(conv), fullgraph=True, backend="aot_eager")
    with torch.autocast(DEVICE, dtype):
        ours, theirs = compiled(x), conv(x)
    assert ours.dtype == dtype
    assert_close(ours, theirs)


def test_takes_checkpointing():
    conv, x = layer(padding=1).eval(), torch.randn(2, 4, 6, 6, device=DEVICE, requires_grad=True)

    def again(x):
        return torch.utils.checkpoint.checkpoint(conv, x, use_reentrant=False)

    compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
    inputs = (x, *conv.parameters())
    ours, theirs = (torch.autograd.grad(run(x).square().sum(), inputs) for run in (compiled, conv))
    assert_close(ours, theirs)


def test_the_graph_holds_one_operator():
    names, record = recorder()
    torch.compile(layer(padding=1), backend=record, fullgraph=True)(torch.randn(2, 4, 9, 9, device=DEVICE))
    assert our_operators(names) == ["monai_crossd.fused_layer"]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_the_operator_keeps_torchs_rules(padded, training):
    conv = layer(32, 80)
    net = parameters(conv.predictor)
    statistics = (None, None) if training else (conv.predictor[1].running_mean, conv.predictor[1].running_var)
    x = torch.randn(2, 32, 4, 4, device=DEVICE, requires_grad=True)
    conv(x)  # the first call of a layer registers the operators
    inputs = x, torch.randn(2, 32, 6, 6, device=DEVICE, requires_grad=True) if padded else None, conv.weight, *net
    arguments = [1, 1], [0, 0] if padded else [1, 1], [1, 1], 1, training, 1e-5
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]  # not of numbers: states have empty ones
    operators = torch.ops.monai_crossd.fused_layer, torch.ops.monai_crossd.fused_layer_backward
    torch.library.opcheck(operators[0], (*inputs, *statistics, *arguments, True), test_utils=checks)
    with torch.no_grad():
        y, state = operators[0](*inputs, *statistics, *arguments, True)
        for need in ([True, padded, True], [False, padded, True], [True, False, False]):
            backward = (torch.randn_like(y), *inputs, state, *arguments, need)
            torch.library.opcheck(operators[1], backward)


def test_images_smaller_than_the_kernel_are_refused():
    with pytest.raises(Exception, match="`x` must be larger than the kernel after padding"):
        torch.compile(layer(size=5), backend="aot_eager")(torch.randn(2, 4, 3, 3, device=DEVICE))


def test_second_derivatives_are_refused():
    x = torch.randn(2, 4, 6, 6, device=DEVICE, requires_grad=True)
    conv = layer()
    conv(x)  # the first call of a layer registers the operator
    net = parameters(conv.predictor)
    arguments = [1, 1], [0, 0], [1, 1], 1, True, 1e-5, True
    y, _ = torch.ops.monai_crossd.fused_layer(x, None, conv.weight, *net, None, None, *arguments)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"has no second derivative; call the layer without torch\.compile"):
        dx.sum().backward()
