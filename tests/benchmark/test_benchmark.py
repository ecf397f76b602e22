from __future__ import annotations

import json

import pytest
import reference
import torch
from torch import nn
from torch.testing import assert_close

from monai_crossd import CrossDConv, crossd_resnet18
from monai_crossd.benchmark import LiteralCrossDConv, __main__, cases, report, timing, with_literal_layers
from monai_crossd.benchmark.__main__ import main


def turned(conv: CrossDConv) -> CrossDConv:
    nn.init.normal_(conv.predictor[3].weight)
    return conv


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_literal_layer_is_the_papers(size):
    conv = turned(CrossDConv(4, 6, size, stride=2, padding=1, groups=2, bias=False)).double().eval()
    x = torch.randn(3, 4, 9, 10).double()
    y = LiteralCrossDConv(conv)(x)
    r = reference.pooled(conv.predictor, x)
    assert_close(y, reference.cross_d_conv2d(x, conv.weight, r, stride=2, padding=1, groups=2), rtol=1e-5, atol=1e-6)
    assert_close(y, conv(x), rtol=1e-5, atol=1e-6)


def test_a_network_of_literal_layers_agrees():
    net = crossd_resnet18(in_channels=1, num_classes=2, block_inplanes=(4, 4, 4, 4)).eval()
    x = torch.randn(2, 1, 32, 32)
    assert_close(with_literal_layers(net)(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conv", [CrossDConv(1, 1, 3), CrossDConv(1, 1, 1, bias=False)])
def test_what_the_published_layer_has_not(conv):
    with pytest.raises(ValueError, match="`conv` must have no bias, zero padding and K > 1, got CrossDConv"):
        LiteralCrossDConv(conv)


def test_a_run_writes_json_markdown_and_a_plot(tmp_path, capsys):
    main(
        [
            "--device",
            "cpu",
            "--repeats",
            "2",
            "--shapes",
            "1x2x8x8",
            "1x2x4x4x4",
            "batch",
            "--output_dir",
            str(tmp_path),
        ]
    )
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["run"]["torch"] == torch.__version__ and content["run"]["seed"] == 0
    timings = content["timings"]
    timed = [row for row in timings if row["milliseconds"] is not None]
    assert {row["competitor"] for row in timed} >= {"Conv2d", "Conv3d", "CrossDConv", "literal"}
    assert all(0 < row["low"] <= row["milliseconds"] <= row["high"] for row in timed)
    text = (tmp_path / "benchmark.md").read_text()
    assert text in capsys.readouterr().out and "| 1 x 2 x 8 x 8 | float32 | forward | Conv2d |" in text
    assert (tmp_path / "benchmark.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("group", cases.GROUPS)
@pytest.mark.parametrize("small", [True, False])
def test_every_group_has_rows_of_its_own(group, small):
    rows = cases.cases([group], small)
    assert rows and all(row.group == group for row in rows)
    assert len({row.shape for row in rows}) == len(rows)


def test_what_fails_does_not_stop_the_rest():
    def broken() -> nn.Module:
        raise torch.OutOfMemoryError

    case = cases.Case(
        "layers2d", (1, 1, 4, 4), {"Conv2d": nn.Identity, "CrossDConv": broken}, missing={"x": "not here"}
    )
    rows = timing.time_case(case, timing.Setting("float32"), torch.device("cpu"), 1)
    errors = {(row.competitor, row.error) for row in rows}
    assert errors == {("Conv2d", ""), ("CrossDConv", "out of memory"), ("x", "not here")}
    assert "| CrossDConv | out of memory | | " in report.as_markdown(rows, {})


def test_memory_that_is_not_there():
    """On a CPU the process would be ended by the system."""
    case = cases.Case(
        "networks", (1, 1, 4, 4), {"plain": nn.Identity, "literal": nn.Identity}, needs={"literal": 1 << 60}
    )
    rows = timing.time_case(case, timing.Setting("float32"), torch.device("cpu"), 1)
    assert {(row.competitor, row.error) for row in rows} == {("plain", ""), ("literal", "out of memory")}


def test_ratios_are_of_one_run():
    rows = [
        timing.Timing("layers2d", "1 x 1", "float32", "forward", name, ms, ms, ms)
        for name, ms in (("Conv2d", 2.0), ("CrossDConv", 3.0))
    ]
    assert "| CrossDConv | 3.00 (3.00, 3.00) | 1.50 |" in report.as_markdown(rows, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "`--repeats` must be positive, got 0."),
        (["--shapes", "layers4d"], "`--shapes` must be groups (layers2d, layers3d"),
        (["--shapes", "1x2x3"], "got '1x2x3'"),
        (["--shapes", "1x0x3x3"], "got '1x0x3x3'"),
        (["--device", "cuda"], "`--device cuda` needs a GPU that torch sees, got none"),
    ],
)
def test_bad_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(__main__.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and "Traceback" not in error
