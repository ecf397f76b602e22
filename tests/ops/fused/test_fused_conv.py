"""The fused convolution against torch's conv2d, image by image in float64.

Without a GPU, in Triton's interpreter:  TRITON_INTERPRET=1 OMP_NUM_THREADS=1 pytest tests/ops/fused/test_fused_conv.py
On a GPU:                                pytest tests/ops/fused/test_fused_conv.py
"""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
import torch
import torch.nn.functional as F
from fused import DEVICE, needs_kernels
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from monai_crossd.ops import shift_operator
from monai_crossd.ops.fused import availability, language
from monai_crossd.ops.fused.availability import available
from monai_crossd.ops.fused.conv import kernels as conv_kernels
from monai_crossd.ops.fused.conv import launch as conv_launch
from monai_crossd.ops.fused.conv import mix_launch
from monai_crossd.ops.fused.conv import passes as fused_conv
from monai_crossd.ops.fused.conv.mix_launch import image_numbers
from monai_crossd.ops.fused.conv.operator import fused_conv2d
from monai_crossd.ops.fused.conv.tables import Launch
from monai_crossd.ops.fused.images.halves import Scaled

GPU = DEVICE == "cuda"
pytestmark = pytest.mark.usefixtures("ieee", "products_of_bfloat16")
ROUNDING = {"ieee": 1e-5, "tf32": 2e-3, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@pytest.fixture(autouse=True)
def poisoned():
    """Memory that a kernel must write holds NaN before: torch fills what it allocates in its deterministic mode."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def make(size=3, c_in=3, c_out=17, groups=1, image=(5, 9), batch=2, dtype=torch.float32):
    """An image batch, a knowledge base and shift operators that want gradients."""
    x = torch.randn(batch, c_in, *image).to(DEVICE, dtype)
    U = torch.randn(c_out, c_in // groups, size, size, size).to(DEVICE)
    M = shift_operator(1 + torch.rand(batch, 3), size).to(DEVICE)
    return [tensor.requires_grad_() for tensor in (x, U, M)]


def reference(x, U, M, groups=1, **arguments):
    c_out, c_in, size = U.shape[:3]
    kernels = M @ U.reshape(c_out * c_in, size**3).t()  # (B, K*K, C_out*C_in/groups)
    kernels = kernels.transpose(1, 2).reshape(-1, c_out, c_in, size, size)
    images = [F.conv2d(x[b : b + 1], kernels[b], groups=groups, **arguments) for b in range(len(x))]
    return torch.cat(images) if images else F.conv2d(x, U[:, :, 0], groups=groups, **arguments)


def errors(inputs, **arguments):
    """Relative error of the output and of the gradients to x, U and M, in the norm."""
    y = fused_conv2d(*inputs, **arguments)
    dy = torch.randn(y.shape).to(y)
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in inputs]
    y_exact = reference(*exact, **arguments)
    ours = [y, *torch.autograd.grad(y, inputs, dy)]
    theirs = [y_exact, *torch.autograd.grad(y_exact, exact, dy.cpu().double())]
    assert [(a.dtype, a.shape) for a in ours[1:]] == [(a.dtype, a.shape) for a in inputs]
    assert y.dtype == inputs[0].dtype
    norm = torch.linalg.vector_norm
    return [(norm(a.detach().cpu().double() - b) / norm(b)).item() for a, b in zip(ours, theirs, strict=True)]


def check(inputs, tolerance=ROUNDING["ieee"], **arguments):
    found = errors(inputs, **arguments)
    assert all(error < tolerance for error in found), dict(zip(("y", "x", "U", "M"), found, strict=True))


def conv(stride=1, padding=0, dilation=1, groups=1):
    pair = [value if isinstance(value, tuple) else (value, value) for value in (stride, padding, dilation)]
    return dict(zip(("stride", "padding", "dilation"), pair, strict=True), groups=groups)


CASES = {  # knowledge base and image, convolution
    "1": (dict(size=1), conv()),
    "1, stride 2": (dict(size=1, c_in=17, c_out=3), conv(stride=2)),
    "2": (dict(size=2), conv(padding=1)),
    "2, stride 2, groups": (dict(size=2, c_in=4, c_out=6), conv(stride=2, groups=2)),
    "3": (dict(), conv(padding=1)),
    "3, no padding, one image": (dict(batch=1, image=(9, 5)), conv()),
    "3, stride 2": (dict(c_in=17, c_out=3, image=(9, 9)), conv(stride=2, padding=1)),
    "3, groups": (dict(c_in=34, c_out=6), conv(padding=1, groups=2)),
    "3, depthwise": (dict(c_in=3, c_out=3), conv(padding=1, groups=3)),
    "3, dilation 2": (dict(c_in=17, c_out=3), conv(padding=2, dilation=2)),
    "3, stride 2, dilation 2": (dict(), conv(stride=2, padding=2, dilation=2)),
    "3, axes differ": (dict(image=(9, 5)), conv(stride=(3, 1), padding=(0, 2), dilation=(2, 1))),
    "3, stride 4 and dilation 2": (dict(image=(9, 9)), conv(stride=4, padding=1, dilation=2)),
    "4": (dict(size=4, c_in=2, c_out=3), conv(stride=2, padding=1)),
    "5": (dict(size=5, c_in=2, c_out=3), conv(padding=2)),
    "7, stride 2": (dict(size=7, image=(9, 9)), conv(stride=2, padding=3)),
    "7 over one pixel": (dict(size=7, c_in=2, c_out=3, image=(1, 1)), conv(stride=2, padding=3)),
}


@needs_kernels
@pytest.mark.parametrize("case", CASES)
def test_equals_conv2d_image_by_image(case):
    inputs, arguments = CASES[case]
    check(make(**inputs, groups=arguments["groups"]), **arguments)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("c_in", [3, 17])
def test_half_precision(dtype, c_in):
    inputs = make(c_in=c_in, c_out=20, dtype=dtype)
    check(inputs, ROUNDING[dtype], **conv(stride=2, padding=1))
    inputs[1] = inputs[1].detach().to(dtype).requires_grad_()
    check(inputs, ROUNDING[dtype], **conv(padding=1))


@pytest.mark.skipif(not GPU, reason="TF32 is the GPU's")
@pytest.mark.parametrize("c_in", [3, 64])
def test_tf32_follows_cudnn(monkeypatch, c_in):
    inputs = make(c_in=c_in, c_out=64, image=(28, 28))
    check(inputs, **conv(padding=1))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    found = errors(inputs, **conv(padding=1))
    assert ROUNDING["ieee"] < found[0] and max(found) < ROUNDING["tf32"]


@pytest.mark.skipif(not GPU, reason="the interpreter would take minutes")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("precision", ["ieee", "tf32", torch.bfloat16], ids=str)
@pytest.mark.parametrize("size, c_in, c_out, image, stride", [
    (7, 3, 64, 112, 2), (3, 16, 32, 96, 1), (3, 64, 64, 56, 1), (3, 64, 128, 56, 2), (1, 64, 128, 56, 2),
    (3, 256, 256, 14, 1), (3, 512, 512, 7, 1), (5, 24, 40, 33, 1),
])  # fmt: skip
def test_sizes_of_real_layers(monkeypatch, memory_format, precision, size, c_in, c_out, image, stride):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision == "tf32")
    dtype = torch.float32 if isinstance(precision, str) else precision
    inputs = make(size, c_in, c_out, image=(image, image), dtype=dtype)
    inputs[0] = inputs[0].detach().to(memory_format=memory_format).requires_grad_()
    check(inputs, ROUNDING[precision], **conv(stride=stride, padding=size // 2))


@needs_kernels
@pytest.mark.parametrize("c_in", [3, 17])
def test_memory_formats(c_in):
    x, U, M = make(c_in=c_in, c_out=4, image=(5, 9))
    arguments = conv(stride=2, padding=1)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    check([last, U, M], **arguments)
    y = fused_conv2d(last, U, M, **arguments)
    assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
    assert fused_conv2d(x, U, M, **arguments).is_contiguous()
    wide = torch.randn(2, 2 * c_in, 9, 10, device=DEVICE)
    check([wide[:, ::2, :, 1::2].transpose(2, 3).requires_grad_(), U, M], **arguments)
    check([x[:1].detach().expand(2, -1, -1, -1).requires_grad_(), U, M], **arguments)


@needs_kernels
def test_gradient_of_a_sum_has_no_strides():
    x, U, M = make()
    grads = torch.autograd.grad(fused_conv2d(x, U, M).sum(), (x, U, M))
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in (x, U, M)]
    theirs = torch.autograd.grad(reference(*exact).sum(), exact)
    assert_close([a.cpu().double() for a in grads], list(theirs), rtol=1e-4, atol=1e-4)


@needs_kernels
def test_knowledge_base_of_any_strides():
    x, U, M = make(c_in=4, c_out=5)
    last = U.detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    check([x, last, M])
    assert_close(fused_conv2d(x, last, M), fused_conv2d(x, U, M), rtol=0, atol=0)


@needs_kernels
def test_empty_batch():
    x, U, M = make(batch=0)
    y = fused_conv2d(x, U, M, padding=(1, 1))
    assert y.shape == (0, 17, 5, 9)
    dx, dU, dM = torch.autograd.grad(y.sum(), (x, U, M))
    assert dx.shape == x.shape and dM.shape == M.shape
    assert_close(dU, torch.zeros_like(U))


@needs_kernels
@pytest.mark.parametrize("programs", [1, 8])
@pytest.mark.parametrize("size, c_in", [(3, 3), (3, 34), (5, 2)])
def test_many_blocks_and_few_programs(monkeypatch, programs, size, c_in):
    """Tiles smaller than the layer along every axis, several images to a program."""
    small = Launch(16, 16, 16, 1, 1)
    monkeypatch.setattr(conv_launch, "LAUNCHES", {k: [(1 << 62, 1 << 62, small)] for k in conv_launch.LAUNCHES})
    monkeypatch.setattr(mix_launch, "MIX", dict.fromkeys(mix_launch.MIX, small))
    monkeypatch.setattr(mix_launch, "UNMIX", {k: [(1 << 62, small)] for k in mix_launch.UNMIX})
    for launches in (conv_launch, mix_launch):
        monkeypatch.setattr(launches, "PROGRAMS", programs)
    check(make(size, c_in, c_out=18, batch=3), **conv(padding=1))


@needs_kernels
@pytest.mark.parametrize("c_in", [3, 5])
def test_pixels_split_among_programs(c_in, monkeypatch):
    monkeypatch.setattr(conv_launch, "STEPS", 1)
    x, U, M = make(c_in=c_in, c_out=4, image=(9, 17))
    images, dy = Scaled(x.detach()), Scaled(torch.randn_like(fused_conv2d(x, U, M)))
    from_rows, summed = conv_launch.kernels_from_rows, []

    def noted(rows, *sizes):
        summed.append(rows.shape[1])
        return from_rows(rows, *sizes)

    monkeypatch.setattr(conv_launch, "kernels_from_rows", noted)
    parts = conv_launch.kernel_grad(images, dy, 3, [1, 1], [0, 0], [1, 1], 1).shape[1]
    if c_in == 3:  # by rows, whose parts are summed
        assert parts == 1
        (parts,) = summed
    assert parts > 1
    check([x, U, M])


@needs_kernels
def test_chunks_of_the_batch(monkeypatch):
    """Images one by one and in chunks of two are what they are together."""
    x, U, M = make(batch=3, c_in=4, c_out=5)
    whole = fused_conv2d(x, U, M, padding=(1, 1))
    grads = torch.autograd.grad(whole.square().sum(), (x, U, M))
    for images in (1, 2):
        monkeypatch.setattr(fused_conv, "BUDGET", images * image_numbers(U))
        assert len(list(fused_conv._chunks(U, x))) == -(-3 // images)
        part = fused_conv2d(x, U, M, padding=(1, 1))
        assert_close(part, whole, rtol=1e-5, atol=1e-5)  # a product of fewer images may add up in another order
        assert_close(torch.autograd.grad(part.square().sum(), (x, U, M)), grads, rtol=1e-5, atol=1e-4)
        check([x, U, M])


@needs_kernels
def test_same_gradients_in_every_run():
    inputs = make(batch=3)
    y = fused_conv2d(*inputs)
    first, second = (torch.autograd.grad(y, inputs, torch.ones_like(y), retain_graph=True) for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)


@needs_kernels
@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_one_gradient_alone(wanted):
    inputs = make()
    together = torch.autograd.grad(fused_conv2d(*inputs).square().sum(), inputs)[wanted]
    inputs = [tensor.detach().requires_grad_(i == wanted) for i, tensor in enumerate(inputs)]
    alone = torch.autograd.grad(fused_conv2d(*inputs).square().sum(), inputs[wanted])[0]
    assert_close(alone, together, rtol=0, atol=0)


@needs_kernels
def test_autocast_multiplies_in_its_dtype():
    inputs = make(c_in=4, c_out=5)
    with torch.autocast(DEVICE, torch.bfloat16):
        y = fused_conv2d(*inputs)
        of_op = torch.ops.monai_crossd.fused_conv2d(*inputs, (1, 1), (0, 0), (1, 1), 1)
        with pytest.raises(ValueError, match="float64"):  # which autocast leaves alone
            fused_conv2d(inputs[0].double(), *inputs[1:])
    plain = fused_conv2d(inputs[0].bfloat16(), *inputs[1:])
    assert y.dtype == torch.bfloat16
    assert_close(y, plain, rtol=0, atol=0)
    assert_close(of_op, plain, rtol=0, atol=0)
    grads = torch.autograd.grad(y.float().square().sum(), inputs)
    assert [grad.dtype for grad in grads] == [torch.float32] * 3
    assert_close(grads, torch.autograd.grad(plain.float().square().sum(), inputs), rtol=0, atol=0)


@needs_kernels
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("cast", [False, True])
def test_compiles_in_one_graph(dynamic, cast):
    def loss(x, U, M):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=cast):
            y = fused_conv2d(x.relu(), 2 * U, M, (2, 2), (1, 1))
        return y.float().square().sum()

    inputs = make(c_in=4, c_out=5)
    eager = loss(*inputs)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)(*inputs)
    assert_close(compiled, eager)
    assert_close(torch.autograd.grad(compiled, inputs), torch.autograd.grad(eager, inputs))


@needs_kernels
def test_checkpoint():
    inputs = make()
    plain = torch.autograd.grad(fused_conv2d(*inputs).square().sum(), inputs)
    kept = torch.autograd.grad(checkpoint(fused_conv2d, *inputs, use_reentrant=False).square().sum(), inputs)
    assert_close(kept, plain, rtol=0, atol=0)


@needs_kernels
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_operator_is_registered_as_torch_wants(memory_format):
    torch.use_deterministic_algorithms(False)
    x, U, M = make(c_in=4, c_out=6, groups=2)
    x = x.detach().contiguous(memory_format=memory_format).requires_grad_()
    arguments = ([2, 2], [1, 1], [1, 1], 2)
    torch.library.opcheck(torch.ops.monai_crossd.fused_conv2d, (x, U, M, *arguments))
    dy = torch.randn_like(fused_conv2d(x, U, M, *arguments)).detach()
    inputs = [tensor.detach() for tensor in (dy, x, U, M)]
    for need in ([True] * 3, [False, True, False]):
        torch.library.opcheck(torch.ops.monai_crossd.fused_conv2d_backward, (*inputs, *arguments, need))


@needs_kernels
def test_no_second_derivative():
    inputs = make()
    first = torch.autograd.grad(fused_conv2d(*inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative; choose backend 'grouped'"):
        first[0].square().sum().backward()


@needs_kernels
@pytest.mark.parametrize("change, message", [
    (dict(x=torch.zeros(2, 4, 5, 9)), r"`x` must be \(B, 3, H, W\) to fit `U`, got \(2, 4, 5, 9\)"),
    (dict(x=torch.zeros(2, 3, 5)), r"`x` must be \(B, 3, H, W\)"),
    (dict(x=torch.zeros(2, 3, 5, 2)), r"`x` must be larger than the kernel after padding"),
    (dict(x=torch.zeros(2, 3, 5, 9, dtype=torch.float64)), r"got torch.float64 and torch.float32; choose"),
    (dict(U=torch.zeros(17, 3, 3, 3)), r"`U` must be \(C_out, C_in/groups, K, K, K\), got \(17, 3, 3, 3\)"),
    (dict(U=torch.zeros(17, 3, 3, 3, 1)), r"`U` must be"),
    (dict(groups=3), r"`U` must be .* with groups=3"),
    (dict(M=torch.zeros(3, 9, 27)), r"`M` must be \(2, 9, 27\) in float32, got \(3, 9, 27\)"),
    (dict(M=torch.zeros(2, 9, 27, dtype=torch.bfloat16)), r"in float32, got .* torch.bfloat16"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_errors_say_what_does_not_fit(change, message):
    arguments = dict(zip(("x", "U", "M"), make(), strict=True))
    change = {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in change.items()}
    with pytest.raises(ValueError, match=message):
        fused_conv2d(**(arguments | change))


def loaded(file):
    """A module of its own, made from the file of another."""
    spec = importlib.util.spec_from_file_location("without_triton", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_triton(monkeypatch):
    """The module of kernels imports, and the error names another way."""
    monkeypatch.setattr(availability, "_TRITON", False)
    monkeypatch.setitem(sys.modules, "triton", None)
    without = loaded(language.__file__)
    monkeypatch.setitem(sys.modules, language.__name__, without)
    assert without.triton is None and callable(loaded(conv_kernels.__file__).conv_kernel)
    x, U, M = make()
    assert not available(x)
    with pytest.raises(RuntimeError, match=r"needs Triton and a GPU, got `x` on .*; choose backend 'grouped'"):
        fused_conv2d(x, U, M)


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter runs on the CPU")
def test_not_on_the_cpu():
    assert not available(torch.zeros(1))
