"""Every kernel compiles for GPUs, also where there is none: the interpreter takes more."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from monai_crossd.ops.fused.columns import launch as columns_launch
from monai_crossd.ops.fused.columns import passes as columns
from monai_crossd.ops.fused.conv import launch as conv_launch
from monai_crossd.ops.fused.conv import mix_launch, rows
from monai_crossd.ops.fused.conv import passes as conv_passes
from monai_crossd.ops.fused.conv.boxes_kernels import box_conv_kernel
from monai_crossd.ops.fused.conv.tables import BOXES
from monai_crossd.ops.fused.images import halves, turn
from monai_crossd.ops.fused.layer.launch import Call, Needs, launch_backward, launch_forward
from monai_crossd.ops.fused.predictor import launch as predictor_launch
from monai_crossd.ops.fused.predictor.launch import Predictor
from monai_crossd.ops.fused.shift import launch as shift_launch
from monai_crossd.ops.per_image import ConvArguments

triton = pytest.importorskip("triton", reason="Triton is missing")
if not isinstance(turn.turn_kernel, triton.JITFunction):
    pytest.skip("Triton's interpreter is on", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")  # Triton's own affair
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}
HOPPER, AMPERE = 90, 86  # as compute capabilities, the lesser with what Ada and small Blackwells have too
SHARED = {HOPPER: 232448, AMPERE: 101376}  # bytes of memory that a program can have
OPTIONS = ("num_warps", "num_stages")


@pytest.fixture
def launches(monkeypatch):
    """What would be launched."""
    seen = []
    for module in (columns_launch, conv_launch, halves, mix_launch, predictor_launch, rows, shift_launch, turn):
        monkeypatch.setattr(module, "launch", lambda kernel, grid, *args, **named: seen.append((kernel, args, named)))
    return seen


def specialized(kernel, args, named):
    """Types, constants and what is known to be divisible, by Triton's rules: what tells compiled kernels apart."""
    values = [*args, *(named[name] for name in kernel.arg_names[len(args) :])]
    signature, constants, attributes = {}, {}, {}
    for at, (parameter, value) in enumerate(zip(kernel.params, values, strict=True)):
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or one or value is None:
            signature[parameter.name], constants[(at,)] = "constexpr", value
            continue
        if isinstance(value, str):
            signature[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        known = not (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment)
        known = known and not isinstance(value, float | str)
        if known and (isinstance(value, torch.Tensor) or value % 16 == 0):
            attributes[(at,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def compile_for(capability, kernel, args, named, descriptors=()):
    """Compile as a launch would.

    Args:
        capability: of ``SHARED``.
        kernel: under ``triton.jit``.
        args: as of the kernel.
        named: arguments by name, and options.
        descriptors: types of the first arguments, which ``args`` leave out.
    """
    signature, constants, attributes = specialized(kernel, (*descriptors, *args), named)
    options = {name: named[name] for name in OPTIONS if name in named}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=options)
    assert compiled.metadata.shared <= SHARED[capability]
    return compiled


def launch_layer(x, outputs, size, training):
    """Forward and backward of a layer by ``"kernels"``."""
    channels = x.shape[1]
    U = torch.empty(outputs, channels, size, size, size)
    net = Predictor(
        torch.empty(16, channels, 1, 1), *(torch.empty(16) for _ in range(3)), torch.empty(4, 16, 1, 1), torch.empty(4)
    )
    running = (torch.empty(16), torch.empty(16), torch.empty((), dtype=torch.int64))
    conv = ConvArguments((2, 1), (1, 1), (1, 1), groups=1)
    call, needs = Call(conv, training, 1e-5, 0.1, True, halves.is_halved(x.dtype), False), Needs(True, True, True)
    state, y = launch_forward(x, x, False, "kernels", U, net, running, call)
    launch_backward("kernels", torch.empty_like(y), x, x, U, net, state, call, needs)


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize(
    "channels, side, size, training, dtype",
    [
        (64, 14, 3, True, torch.float32),
        (128, 64, 3, True, torch.bfloat16),
        (64, 14, 3, True, torch.bfloat16),
        (64, 14, 3, False, torch.float16),
        (3, 32, 7, True, torch.float32),
        (5, 7, 2, False, torch.float32),
    ],
)
def test_compiles(launches, monkeypatch, channels, side, size, training, dtype, tf32, capability):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    launch_layer(torch.empty(2, channels, side, side, dtype=dtype), 2 * channels, size, training)
    assert len({kernel for kernel, _, _ in launches}) >= 13
    for kernel, args, named in launches:
        assert compile_for(capability, kernel, args, named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels, side, size", [(64, 28, 3), (3, 64, 7)])
def test_another_batch_takes_the_same_kernels(launches, channels, side, size, dtype):
    """So that the last batch of an epoch waits for no compiler."""
    found = []
    for images in (32, 27):
        launch_layer(torch.empty(images, channels, side, side, dtype=dtype), 64, size, True)
        found.append({(kernel.fn.__name__, str(specialized(kernel, args, named))) for kernel, args, named in launches})
        launches.clear()
    assert len(found[0]) >= 13 and found[0] == found[1]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_kernels_for_the_library_compile(launches, memory_format):
    x = torch.empty(2, 32, 8, 8, dtype=torch.bfloat16)
    U, M = torch.empty(64, 32, 3, 3, 3), torch.empty(2, 9, 27)
    last = memory_format == torch.channels_last
    k = conv_passes.mixed(x, U, M, 1, last)
    conv_passes.mixed(x, U, M, 1, last, transposed=True)
    conv_passes.launch_unmixed(k[:, None], U, M, True)
    assert len(launches) == 4
    for kernel, args, named in launches:
        assert named["LIBRARY"] and compile_for(HOPPER, kernel, args, named)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 40, 200])
def test_casts_compile(launches, channels, training):
    x = torch.empty(2, channels, 9, 9, dtype=torch.bfloat16, memory_format=torch.channels_last)
    net = Predictor(
        torch.empty(16, channels, 1, 1), *(torch.empty(16) for _ in range(3)), torch.empty(4, 16, 1, 1), torch.empty(4)
    )
    running = predictor_launch.Running(torch.empty(16), torch.empty(16), torch.empty((), dtype=torch.int64))
    h = torch.empty(predictor_launch.shape_h(x, 16, True), dtype=x.dtype)
    stats, soft, r = torch.empty(4, 16), torch.empty(3, 2, 4), torch.empty(2, 4)
    predictor_launch.write_pool(x, net, running, training, 1e-5, True, h, stats, soft, r, x.float())
    kernel, args, named = launches[0]
    assert (args[0].dtype, args[1].dtype) == (torch.float32, torch.bfloat16)
    assert compile_for(HOPPER, kernel, args, named)


@pytest.mark.parametrize("channels", [1, 3, 40])
def test_offsets_of_64_bits_compile(launches, monkeypatch, channels):
    sizes = predictor_launch._sizes
    monkeypatch.setattr(predictor_launch, "_sizes", lambda *of: sizes(*of) | {"WIDE": True})
    x = torch.empty(2, channels, 9, 9, memory_format=torch.channels_last)
    net = Predictor(
        torch.empty(16, channels, 1, 1), *(torch.empty(16) for _ in range(3)), torch.empty(4, 16, 1, 1), torch.empty(4)
    )
    h = torch.empty(predictor_launch.shape_h(x, 16, True))
    stats, soft, r = torch.empty(4, 16), torch.empty(3, 2, 4), torch.empty(2, 4)
    predictor_launch.write_pool(x, net, None, True, 1e-5, True, h, stats, soft, r)
    grads = predictor_launch.empty_grads(net)
    predictor_launch.write_gradients(r, x, h, stats, soft, net, True, grads, torch.empty_like(x), True)
    assert len(launches) >= 7
    for kernel, args, named in launches:
        assert compile_for(HOPPER, kernel, args, named)


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_columns_compile(launches, monkeypatch, dtype, tf32):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    x, U = torch.randn(2, 16, 7, 7).to(dtype), torch.randn(64, 16, 3, 3, 3)
    r, at, ranges = torch.randn(2, 4), (1, 1, 1, 1, 1, 1), halves.measured(x, U, None)
    y, dx, dU = torch.empty(2, 64, 7, 7, dtype=dtype), torch.empty_like(x), torch.empty_like(U)
    along, dr = y.to(memory_format=torch.channels_last), torch.empty_like(r)
    columns.convolve_columns(x, U, r, ranges, y, along, at)
    columns.gradients_of_columns(torch.empty_like(y), x, U, r, ranges, along, dx, dU, dr, at)
    assert len({kernel for kernel, _, _ in launches}) >= 6
    for kernel, args, named in launches:
        assert compile_for(HOPPER, kernel, args, named)


@pytest.mark.skipif(importlib.util.find_spec("triton.tools.tensor_descriptor") is None, reason="no descriptors")
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("boxes", sorted({row for *_, row in BOXES if row is not None}), ids=str)
def test_boxes_compile(boxes, scaled, last):
    block_m, pixels, block_c, programs, num_warps, num_stages = boxes
    h, w = 8, pixels // 8
    types = [f"tensordesc<fp16[1, {h}, {w}, {block_c}]>", f"tensordesc<fp16[{block_m}, {block_c}]>"]
    factors = (torch.empty(2), torch.empty(1)) if scaled else (None, None)
    y, geometry = torch.empty(2, 128, 48, 48, dtype=torch.float32 if scaled else torch.float16), (-1, -1, 1, 1)
    y = y.contiguous(memory_format=torch.channels_last) if last else y
    sizes = dict(K=3, AHEAD=last, BLOCK_H=h, BLOCK_W=w, BLOCK_M=block_m, BLOCK_C=block_c)
    compiled = compile_for(
        HOPPER, box_conv_kernel, (*factors, y, 128, 64, 576, 1, 6, 48, 48, *y.stride(), *geometry),
        dict(**sizes, num_warps=num_warps, num_stages=num_stages), types,
    )  # fmt: skip
    assert compiled.metadata.shared * programs <= SHARED[HOPPER]
    assert "local_load" not in compiled.asm["ttgir"]  # products read memory themselves
