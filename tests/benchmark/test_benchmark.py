from __future__ import annotations

import json
import time

import pytest
import reference
import torch
from torch import nn
from torch.testing import assert_close

from monai_crossd import CrossDConv, crossd_resnet18
from monai_crossd.benchmark import LiteralCrossDConv, __main__, cases, kernels, report, timing, with_literal_layers
from monai_crossd.benchmark.__main__ import main
from monai_crossd.benchmark.forms import FORMS, FormedConv2d


def turned(conv: CrossDConv) -> CrossDConv:
    nn.init.normal_(conv.predictor[3].weight)
    return conv


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_literal_layer_is_the_papers(size, dtype):
    conv = turned(CrossDConv(4, 6, size, stride=2, padding=1, groups=2, bias=False)).to(dtype).eval()
    x = torch.randn(3, 4, 9, 10, dtype=dtype)
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
    arguments = ["--device", "cpu", "--repeats", "2", "--output_dir", str(tmp_path), "--shapes"]
    main([*arguments, "1x2x8x8", "1x2x4x4x4", "batch"])
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["run"]["torch"] == torch.__version__ and content["run"]["seed"] == 0
    timings = content["timings"]
    timed = [row for row in timings if row["milliseconds"] is not None]
    assert {row["competitor"] for row in timed} >= {"Conv2d", "Conv3d", "CrossDConv", "literal"}
    assert all(0 < row["low"] <= row["milliseconds"] <= row["high"] for row in timed)
    text = (tmp_path / "benchmark.md").read_text()
    assert text in capsys.readouterr().out and "| 1 x 2 x 8 x 8 | float32 | forward | Conv2d |" in text
    assert (tmp_path / "benchmark.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_that_is_cut_off_leaves_what_it_timed(tmp_path, monkeypatch):
    timed = []

    def time_once(*arguments):
        if timed:
            raise KeyboardInterrupt
        timed.append(timing.time_case(*arguments))
        return timed[0]

    monkeypatch.setattr("monai_crossd.benchmark.__main__.time_case", time_once)
    with pytest.raises(KeyboardInterrupt):
        main(["--device", "cpu", "--repeats", "1", "--output_dir", str(tmp_path), "--shapes", "1x2x8x8", "1x2x9x9"])
    rows = json.loads((tmp_path / "benchmark.json").read_text())["timings"]
    assert {row["shape"] for row in rows} == {"1 x 2 x 8 x 8"}


def test_a_run_without_sweeps_leaves_no_plot(tmp_path, capsys, monkeypatch):
    (tmp_path / "benchmark.png").write_bytes(b"of another run")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = torch.get_num_threads()
    main(["--device", "cpu", "--repeats", "1", "--output_dir", str(tmp_path), "--shapes", "1x1x4x4", "1x1x4x4"])
    assert "Written to" in (out := capsys.readouterr().out) and out.endswith("benchmark.json, benchmark.md\n")
    assert "### Layers on images, scaled down for a CPU" in out and not (tmp_path / "benchmark.png").exists()
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(content["timings"]) == 6  # three competitors, two works, named twice
    assert content["run"]["threads"] == 2 and torch.get_num_threads() == threads
    assert content["run"]["layer_outputs"] == 64 and content["run"]["shapes"] == "1x1x4x4 1x1x4x4"


def test_competitors_by_name_and_the_first(tmp_path):
    arguments = ["--device", "cpu", "--repeats", "1", "--output_dir", str(tmp_path), "--competitors", "CrossDConv"]
    main([*arguments, "--shapes", "1x2x8x8", "1x2x4x4x4"])
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert {row["competitor"] for row in content["timings"]} == {"Conv2d", "Conv3d", "CrossDConv"}
    assert content["run"]["competitors"] == "CrossDConv"


@pytest.mark.parametrize("group", cases.GROUPS)
@pytest.mark.parametrize("small", [True, False])
def test_every_group_has_rows_of_its_own(group, small):
    rows = cases.cases([group], small)
    assert rows and all(row.group == group for row in rows)
    assert len({row.label for row in rows}) == len(rows)


def test_forms_of_a_convolution_agree():
    x, made = torch.randn(2, 3, 9, 9), []
    for form in FORMS:
        torch.manual_seed(0)
        made.append(FormedConv2d(2, 3, 4, 3, 2, form)(x))
    assert made[0].shape == (2, 4, 5, 5)
    for y in made[1:]:
        assert_close(y, made[0], rtol=1e-5, atol=1e-6)


def test_only_what_comes_first_gives_images_no_gradient():
    class Seen(nn.Module):
        def forward(self, x):
            seen.append(x.requires_grad)
            return x * self.weight

    seen: list[bool] = []
    net = Seen()
    net.weight = nn.Parameter(torch.ones(()))
    for first in (False, True):
        timing.time_case(
            cases.Case("forms", (1, 1, 2, 2), {"Conv2d": lambda: net}, first=first), timing.Setting("float32"),
            torch.device("cpu"), 1,
        )  # fmt: skip
    assert seen[2] and seen[3] and not any(seen[4:])


def test_what_fails_does_not_stop_the_rest():
    def broken() -> nn.Module:
        raise torch.OutOfMemoryError

    case = cases.Case(
        "layers2d", (1, 1, 4, 4), {"Conv2d": nn.Identity, "CrossDConv": broken}, missing={"x": "not here"}
    )
    rows = timing.time_case(case, timing.Setting("float32"), torch.device("cpu"), 1)
    errors = {(row.competitor, row.error) for row in rows}
    assert errors == {("Conv2d", ""), ("CrossDConv", "out of memory"), ("x", "not here")}
    assert "| CrossDConv | out of memory |  |  |" in report.as_markdown(rows, {})


def test_what_fails_when_timed_does_not_stop_the_rest():
    class Late(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 3:  # after the warm-up
                raise torch.OutOfMemoryError
            return x

    case = cases.Case("layers2d", (1, 1, 4, 4), {"Conv2d": nn.Identity, "CrossDConv": Late})
    rows = timing.time_case(case, timing.Setting("float32"), torch.device("cpu"), 3)
    assert {(row.competitor, row.error) for row in rows} == {("Conv2d", ""), ("CrossDConv", "out of memory")}
    assert all((row.milliseconds is None) == (row.competitor == "CrossDConv") for row in rows)


@pytest.mark.parametrize("setting", timing.settings(torch.device("cuda"), False), ids=lambda setting: setting.name)
@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (1, 2, 4, 4, 4)])
def test_every_arithmetic_of_a_gpu_runs(setting, shape):
    """A knowledge base has five axes, the images beside it four."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    case = cases.layer_case("layers2d", shape, 4)
    rows = timing.time_case(case, setting, torch.device("cpu"), 1)
    assert {row.error for row in rows} <= {"", "not installed"} and {row.setting for row in rows} == {setting.name}
    assert before == (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )


def test_arithmetic_reaches_the_layers():
    seen = []

    class Look(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3)

        def forward(self, x):
            y = self.conv(x)
            last = {tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (x, self.conv.weight)}
            seen.append((y.dtype, last, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            return y

    case = cases.Case("layers2d", (2, 2, 8, 8), {"Conv2d": Look})
    for setting in timing.settings(torch.device("cuda"), False):
        seen.clear()
        timing.time_case(case, setting, torch.device("cpu"), 1)
        dtype = torch.bfloat16 if setting.name.startswith("bf16") else torch.float32
        tf32 = not setting.name.startswith("float32")
        assert seen == [(dtype, {"channels_last" in setting.name}, tf32, tf32)] * 4  # two works, a warm-up each


@pytest.mark.parametrize(("group", "count"), [("layers2d", 6), ("volumes", 4), ("side", 2)])
def test_settings_of_a_gpu(group, count):
    names = [setting.name for setting in timing.settings(torch.device("cuda"), True, group)]
    assert len(names) == 3 * count
    assert {"TF32", "bf16 channels_last", "TF32 compiled", "TF32 reduce-overhead"} <= set(names)
    assert [setting.name for setting in timing.settings(torch.device("cpu"), False, group)] == ["float32"]


def test_compiled_modules_are_compiled_anew(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda net, mode: calls.append(mode) or net)
    case = cases.Case("layers2d", (1, 1, 4, 4), {"Conv2d": nn.Identity})
    timing.time_case(case, timing.Setting("float32 compiled", compiled="default"), torch.device("cpu"), 1)
    assert calls == ["reset", "default", "default"]  # forward and training


def test_a_training_step_takes_the_gradient_of_a_loss():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    expected = [parameter.detach().clone() for parameter in net.parameters()]
    case = cases.Case("networks", (2, 1, 2, 2), {"plain": lambda: net}, steps=True, first=True)
    seen = {}
    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.update({p: p.grad.clone()}))
    torch.manual_seed(1)
    timing._prepared(net, case, timing.Setting("float32"), torch.device("cpu"), "training")()
    torch.manual_seed(1)
    y = nn.functional.linear(torch.randn(2, 1, 2, 2).flatten(1), *(w.requires_grad_() for w in expected))
    gradients = torch.autograd.grad((y.logsumexp(1) - y[:, 0]).mean(), expected)
    for parameter, w, gradient in zip(net.parameters(), expected, gradients, strict=True):
        assert parameter.grad is None  # a step leaves nothing behind that would lie in others' way
        assert_close(seen[parameter], gradient)
        assert_close(parameter, w - 1e-6 * gradient)
        assert not torch.equal(parameter, w)  # a small step, but one


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_on_a_gpu_is_the_competitors_own():
    case = cases.layer_case("layers2d", (2, 8, 32, 32), 16)
    rows = timing.time_case(case, timing.Setting("TF32"), torch.device("cuda"), 2)
    own = (2 * 8 * 32 * 32 + 2 * 16 * 32 * 32 + 16 * 8 * 9) * 4 / 2**20  # input, output, kernel
    assert all(row.error == "" and row.milliseconds > 0 and row.mebibytes >= own for row in rows)


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


def test_kernels_have_columns_where_they_were_timed():
    rows = [
        timing.Timing("networks", "1 x 1", "bf16", "forward", name, ms, ms, ms, 4.0, ms / 2)
        for name, ms in (("plain", 2.0), ("Cross-D", 3.0))
    ]
    text = report.as_markdown(
        [*rows, timing.Timing("networks", "1 x 1", "bf16", "forward", "literal", error="none")], {}
    )
    assert "| MiB | ratio | kernels, ms | ratio |" in text
    assert "| Cross-D | 3.00 (3.00, 3.00) | 1.50 | 4 | 1.00 | 1.50 | 1.50 |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "kernels" not in report.as_markdown(
        [timing.Timing("networks", "1", "bf16", "forward", "plain", 1, 1, 1)], {}
    )


def test_kernels_and_copies_of_a_trace_add_up():
    kinds = ("kernel", "gpu_memcpy", "gpu_memset", "cuda_runtime", "cpu_op")
    events = [{"cat": kind, "dur": 1000 * 2**i} for i, kind in enumerate(kinds)]
    assert kernels.busy({"traceEvents": [*events, {"name": "process_name", "ph": "M"}]}) == 1 + 2 + 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_take_less_than_the_call():
    x = torch.randn(1024, 1024, device="cuda")
    run = lambda: x @ x  # noqa: E731
    run()
    assert 0 < kernels.kernel_milliseconds(run, torch.device("cuda")) < 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "`--repeats` must be positive, got 0; the default is 5."),
        (["--seed", "-1"], "`--seed` must lie from 0 to 2**63 - 1, got -1; the default is 0."),
        (["--output_dir", __file__], "`--output_dir` must be a folder that can be written, got"),
        (["--shapes", "layers4d"], "`--shapes` must be groups (layers2d, layers3d"),
        (["--shapes", "1x2x3"], "got '1x2x3'"),
        (["--shapes", "1x0x3x3"], "got '1x0x3x3'"),
        (["--settings", "fp64"], "`--settings` must be among float32, float32 compiled, got fp64."),
        (
            ["--competitors", "fp"],
            "`--competitors` must be among ACSConv, Conv2d, Conv3d, Cross-D, CrossDConv, columns, each,",
        ),
        (["--device", "cuda"], "`--device cuda` needs a GPU that torch sees, got none"),
        (["--kernels"], "`--kernels` needs a GPU that torch sees, got the CPU; leave it out."),
    ],
)
def test_bad_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(__main__.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and "Traceback" not in error


def test_forms_are_of_a_cpu(capsys, monkeypatch):
    monkeypatch.setattr(__main__.torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit) as stopped:
        main(["--shapes", "forms"])
    assert stopped.value.code == 2 and "`--shapes forms` needs a CPU, got a GPU" in capsys.readouterr().err


class _Counting(nn.Module):
    """Counts its calls, and takes some milliseconds."""

    def __init__(self, milliseconds):
        super().__init__()
        self.scale, self.milliseconds, self.calls = nn.Parameter(torch.ones(())), milliseconds, 0

    def forward(self, x):
        self.calls += 1
        time.sleep(self.milliseconds / 1000)
        return self.scale * x


def test_what_takes_very_long_beside_the_first_is_timed_twice(monkeypatch):
    monkeypatch.setattr(timing, "LONG", (10.0, 4.0))
    modules = {"short": _Counting(1), "long": _Counting(30)}
    builds = {name: (lambda module=module: module) for name, module in modules.items()}
    case = cases.Case("layers2d", (1, 1, 4, 4), builds)
    rows = timing.time_case(case, timing.Setting("float32"), torch.device("cpu"), 5)
    assert [row.competitor for row in rows] == ["short", "long"] * 2 and all(row.milliseconds for row in rows)
    calls = {name: module.calls for name, module in modules.items()}
    assert calls["short"] - calls["long"] == 2 * 3  # of forward and training, three rounds less each
