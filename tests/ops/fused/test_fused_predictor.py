"""The predictor on Triton kernels against the plain modules in float64.

On a GPU ``pytest tests/ops/fused/test_fused_predictor.py``; without one, where Triton is installed, in its interpreter:
``TRITON_INTERPRET=1 pytest tests/ops/fused/test_fused_predictor.py``.
"""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from fused import needs_kernels
from predictors import DEVICE, launched, parameters, plain, pool, predictor
from torch import nn
from torch.testing import assert_close

from monai_crossd.ops.fused.predictor import launch as launches

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}
DTYPES = list(TOLERANCE)
NAMES = ["r", "dx", "dw1", "db1", "dgamma", "dbeta", "dw2", "db2", "running_mean", "running_var"]
SHAPES = [(3, 3, 1, 1), (2, 17, 7, 5), (1, 64, 7, 5), (2, 3, 33, 9), (1, 64, 33, 9)]

pytestmark = [
    pytest.mark.usefixtures("ieee"),
    needs_kernels,
]


@contextlib.contextmanager
def poison():
    """What ``torch.empty`` returns is full of NaN."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(5, device=DEVICE).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def results(net, x, dr, function):
    x = x.detach().requires_grad_()
    with contextlib.nullcontext() if function is plain else poison():
        r = function(net, x)
        (r * dr.to(r.dtype)).sum().backward()
    return [r, x.grad, *(p.grad for p in net.parameters()), net[1].running_mean, net[1].running_var]


def check(net, x, tolerance):
    """Output, statistics and all gradients by the relative norm of the difference."""
    dr = torch.randn(x.shape[0], 4, device=DEVICE)
    expected = results(copy.deepcopy(net).double(), x.double(), dr, plain)
    actual = results(copy.deepcopy(net), x, dr, pool)
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        difference, size = (a.double() - e).norm(), e.norm()
        if name == "db1" and net.training:  # normalization takes b1 away
            assert not a.any() and size < 1e-9
        else:
            assert difference <= tolerance * size, f"{name}: {difference / size:.2e}"
    assert actual[1].dtype == x.dtype
    assert [p.dtype for p in actual[2:8]] == [p.dtype for p in net.parameters()]
    return actual


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_modules(shape, dtype, training):
    net = predictor(shape[1], dtype).train(training)
    check(net, torch.randn(shape, device=DEVICE).to(dtype), TOLERANCE[dtype])


def test_products_may_be_in_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    check(predictor(70), torch.randn(3, 70, 9, 11, device=DEVICE), 2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded", "column"])
def test_takes_any_strides(layout, dtype):
    x = torch.randn(2, 36, 7, 6, device=DEVICE).to(dtype)
    x = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "sliced": x[:, 1:35, ::2, 1:-1],
        "transposed": x.transpose(2, 3),
        "expanded": x[:1, ..., :1].expand(2, 36, 7, 6),
        "column": x[..., 2:3],
    }[layout]
    dx = check(predictor(x.shape[1], dtype), x, TOLERANCE[dtype])[1]
    assert layout != "channels_last" or dx.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [3, 70])
def test_many_tiles_and_programs(channels, training, monkeypatch):
    values = {"BLOCK_P": 16, "BLOCK_C": 32, "BLOCK_T": 2, "BLOCK_PARTS": 2, "THREADS": 16, "PLANES_THREADS": 16}
    values |= {"PROGRAMS": 7, "MULTIPROCESSORS": 1}
    for name, value in values.items():
        monkeypatch.setattr(launches, name, value)
    check(predictor(channels).train(training), torch.randn(3, channels, 9, 11, device=DEVICE), 1e-5)


def test_offsets_of_64_bits(monkeypatch):
    sizes = launches._sizes
    monkeypatch.setattr(launches, "_sizes", lambda *of: sizes(*of) | {"WIDE": True})
    check(predictor(35), torch.randn(2, 35, 7, 5, device=DEVICE)[..., ::2], 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_of_another_dtype(dtype):
    check(predictor(40), torch.randn(2, 40, 7, 5, device=DEVICE).to(dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("hidden", [4, 24])
def test_other_hidden_channels(hidden):
    net = nn.Sequential(nn.Conv2d(50, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 4, 1))
    check(net.to(DEVICE), torch.randn(2, 50, 7, 5, device=DEVICE), 1e-5)


@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("training", [True, False])
def test_large_means(channels, training):
    net = predictor(channels).train(training)
    net[0].bias.data += 1e4
    net[1].running_mean += 1e4
    check(net, torch.randn(2, channels, 7, 5, device=DEVICE) + 10, 1e-5)
    check(net, torch.randn(2, channels, 7, 5, device=DEVICE) + 100, 1e-4)  # float32 modules: 5e-4 in dW1
    net[3].bias.data += 1e3
    x = torch.randn(2, channels, 7, 5, device=DEVICE)
    assert_close(pool(net, x), plain(copy.deepcopy(net).double(), x.double()).float(), rtol=1e-6, atol=0)


def test_statistics_where_the_mean_is_much_larger_than_the_deviation(monkeypatch):
    monkeypatch.setattr(launches, "PROGRAMS", 3)
    net = predictor(1)
    net[0].weight.data.fill_(1.0)  # h is x, so nothing but the statistics rounds
    x = 512 + torch.randint(-8, 9, (2, 1, 15, 14), device=DEVICE) / 8
    _, stats, _, _ = launched(x, parameters(net), net[1], keep=False)
    var = x.double().var().float().expand(16)
    assert_close(stats[3], var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sharp_softmax_and_small_gradients(dtype):
    net = predictor(5, dtype)
    net[3].weight.data *= 40
    x = torch.randn(2, 5, 7, 5, device=DEVICE).to(dtype)
    check(net, x, {torch.float32: 1e-4, torch.float16: 5e-2}[dtype])
    if dtype == torch.float16:  # gradients far below float16's smallest number still reach float32 weights
        net, dr = predictor(5), torch.full((2, 4), 1e-9, device=DEVICE)
        expected = results(copy.deepcopy(net).double(), x.double(), dr, plain)[2]
        assert (results(net, x, dr, pool)[2] - expected).norm() < 2e-2 * expected.norm()


def test_only_what_needs_a_gradient_keeps_h_and_gets_one():
    net = predictor(40).eval()
    x = torch.randn(2, 40, 7, 5, device=DEVICE)
    r = pool(net, x)
    with torch.no_grad():
        assert torch.equal(pool(net, x), r)
    r.sum().backward()
    assert net[0].weight.grad is not None and x.grad is None
    net.requires_grad_(False)
    assert not pool(net, x).requires_grad
    (dx,) = torch.autograd.grad(pool(net, x.requires_grad_()).sum(), x)
    (expected,) = torch.autograd.grad(plain(net, x).sum(), x)
    assert_close(dx, expected, rtol=1e-3, atol=1e-5)


def test_is_deterministic():
    x, dr = torch.randn(2, 40, 9, 8, device=DEVICE), torch.randn(2, 4, device=DEVICE)
    net = predictor(40)
    first, second = (results(copy.deepcopy(net), x, dr, pool) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dx_is_added_to_a_buffer(dtype):
    net, x, dr = predictor(40), torch.randn(2, 40, 7, 5, device=DEVICE).to(dtype), torch.randn(2, 4, device=DEVICE)
    given = parameters(net)
    h, stats, soft, _ = launched(x, given, net[1], keep=True)

    def gradients(into, add):
        launches.write_gradients(dr, x, h, stats, soft, given, True, launches.empty_grads(given), into, add)
        return into

    dx = torch.randn_like(x).to(memory_format=torch.channels_last)
    expected = dx.float() + gradients(torch.empty_like(x), False).float()
    gradients(dx, True)
    assert (dx - expected).norm() <= TOLERANCE[dtype] / 2 * expected.norm()


def test_what_does_not_work_raises():
    net, x = predictor(3), torch.randn(1, 3, 1, 1, device=DEVICE)
    with pytest.raises(ValueError, match="`x` must have more than one value per channel in training, got shape"):
        pool(net, x)
    with pytest.raises(RuntimeError, match=r"`x` must be float32, bfloat16 or float16 .* got torch\.float64"):
        pool(net, x.double())
    check(net.eval(), x, 1e-5)
    net[1].running_mean = net[1].running_var = None
    with pytest.raises(ValueError, match="`running_mean` and `running_var` must be given in eval mode"):
        pool(net, x)
    net.train()
    x = torch.randn(2, 3, 4, 4, device=DEVICE)
    assert_close(pool(net, x), plain(net, x), rtol=1e-3, atol=1e-5)
