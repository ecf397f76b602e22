"""Graphs with a dynamic batch agree with eager at another batch size than the one they were made with."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from monai_crossd import CrossDConv, CrossDConvTranspose

LAYERS = {
    "odd": lambda: CrossDConv(2, 4, 3, padding=1),
    "even, grouped": lambda: CrossDConv(2, 4, 4, padding="same", groups=2, bias=False),
    "one": lambda: CrossDConv(2, 4, 1),
    "transposed": lambda: CrossDConvTranspose(2, 4, 2, stride=2),
}
MADE, USED = torch.randn(2, 2, 8, 9), torch.randn(5, 2, 8, 9)


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
    program = torch.export.export(layer, (MADE,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    assert_close(program.module()(USED), layer(USED))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile(layer):
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True)
    for x in (MADE, USED, torch.randn(7, 2, 8, 9)):
        assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_onnx(layer, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.onnx.export(layer, (MADE,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    program.save(tmp_path / "layer.onnx")
    session = runtime.InferenceSession(tmp_path / "layer.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: USED.numpy()})
    assert_close(torch.from_numpy(y), layer(USED), rtol=1e-4, atol=1e-5)
