"""Graphs agree with eager at another batch and image size than the one they were made with."""

from __future__ import annotations

import pytest
import torch
from graphs import recorder
from torch import nn
from torch.testing import assert_close

from monai_crossd import CrossDConv, CrossDConvTranspose

LAYERS = {
    "odd": lambda: CrossDConv(2, 4, 3, padding=1),
    "even, grouped": lambda: CrossDConv(2, 4, 4, padding="same", groups=2, bias=False),
    "one": lambda: CrossDConv(2, 4, 1),
    "transposed": lambda: CrossDConvTranspose(2, 4, 2, stride=2),
}
MADE, USED = torch.randn(2, 2, 8, 9), torch.randn(5, 2, 12, 7)
BATCH, ROWS, COLUMNS = (torch.export.Dim(name, min=least, max=64) for name, least in (("b", 1), ("h", 6), ("w", 6)))
DYNAMIC = {0: BATCH, 2: ROWS, 3: COLUMNS}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    layer = LAYERS[request.param]().eval()
    if layer.predictor is not None:
        nn.init.normal_(layer.predictor[3].weight)
    return layer


def test_trace(layer):
    assert_close(torch.jit.trace(layer, MADE)(USED), layer(USED))


def test_script_takes_images_and_volumes(layer):
    script = torch.jit.script(layer)
    for x in (USED, torch.randn(2, 2, 5, 6, 7)):
        assert_close(script(x), layer(x))


def test_export(layer):
    program = torch.export.export(layer, (MADE,), dynamic_shapes=(DYNAMIC,))
    assert_close(program.module()(USED), layer(USED))


def test_compiled_graphs_take_the_form_of_plain_calls():
    """Not the one for exports, which torch 2.11 says that every graph is for."""
    torch._dynamo.reset()
    names, record = recorder()
    layer, x = CrossDConv(2, 4, 3, padding=1), torch.randn(2, 2, 16, 16)
    assert_close(torch.compile(layer, backend=record, fullgraph=True)(x), layer(x))
    assert names and not any("unfold" in name for name in names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile(layer):
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True)
    for x in (MADE, USED):
        assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arguments", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}], ids=str)
def test_compile_of_dynamic_size(arguments):
    """Batch, rows and columns are symbols of one graph where the batch allows it; padding in a step of its own."""
    torch._dynamo.reset()
    layer = CrossDConv(2, 4, 4, **arguments)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for x in (MADE, torch.randn(2, 2, 12, 7)):
        ours, theirs = compiled(x), layer(x)
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.autograd.grad(y.square().sum(), layer.weight)[0] for y in (ours, theirs))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_onnx(layer, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(layer, (MADE,), dynamo=True, dynamic_shapes=(DYNAMIC,), verbose=False)
    program.save(tmp_path / "layer.onnx")
    session = runtime.InferenceSession(tmp_path / "layer.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: USED.numpy()})
    assert_close(torch.from_numpy(y), layer(USED), rtol=1e-4, atol=1e-5)
