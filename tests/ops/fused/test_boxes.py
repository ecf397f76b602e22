"""The convolution that reads boxes of pixels, against conv2d image by image in float64.

Without a GPU, in Triton's interpreter:  TRITON_INTERPRET=1 OMP_NUM_THREADS=1 pytest tests/ops/fused/test_boxes.py
On a GPU:                                pytest tests/ops/fused/test_boxes.py
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fused import DEVICE

from monai_crossd.ops.fused.availability import available
from monai_crossd.ops.fused.conv import boxes
from monai_crossd.ops.fused.conv import launch as conv_launch
from monai_crossd.ops.fused.conv.boxes import suits_boxes
from monai_crossd.ops.fused.conv.launch import convolve
from monai_crossd.ops.fused.conv.tables import BOXES, Boxes
from monai_crossd.ops.fused.images.halves import Scaled

LAST = torch.channels_last
needs_boxes = pytest.mark.skipif(
    not available(torch.empty(0, device=DEVICE)) or not boxes._described(torch.device(DEVICE)),
    reason="needs Triton's descriptors, and a Hopper GPU or TRITON_INTERPRET=1",
)
SMALL = [Boxes(16, 16, 16, 1, 4, 2), Boxes(32, 32, 16, 1, 4, 2)]
TABLE = sorted({row for *_, row in BOXES if row is not None})
CASES = {  # images, channels before and after, height and width, K, padding, dilation
    "3": (2, 16, 24, (5, 9), 3, (1, 1), (1, 1)),
    "3, no padding": (3, 16, 16, (6, 6), 3, (0, 0), (1, 1)),
    "3, wide": (1, 16, 17, (3, 40), 3, (2, 1), (1, 1)),
    "3, dilation": (2, 40, 16, (9, 7), 3, (2, 1), (2, 1)),
    "1": (1, 24, 40, (8, 8), 1, (0, 0), (1, 1)),
    "2": (2, 16, 8, (5, 4), 2, (1, 0), (1, 1)),
    "5": (2, 40, 16, (10, 5), 5, (2, 2), (1, 1)),
    "7 over less": (2, 16, 16, (2, 2), 7, (3, 3), (1, 1)),
}


def images(*shape, memory_format=LAST):
    """Of 16 bits."""
    return torch.randn(shape).to(DEVICE, torch.float16).to(memory_format=memory_format)


def as_weights(k, size):
    """``(B, C_out, C_in, K, K)`` in float64 from ``(B, K*K, C_out, C_in)``."""
    return k.double().unflatten(1, (size, size)).permute(0, 3, 4, 1, 2)


def written(shape, memory_format=LAST, dtype=torch.float16):
    """Where a kernel must write every value."""
    return torch.full(shape, float("nan"), device=DEVICE, dtype=dtype).contiguous(memory_format=memory_format)


def expected(x, k, size, padding, dilation):
    weights = as_weights(k, size)
    images = [F.conv2d(x[b : b + 1].double(), weights[b], None, 1, padding, dilation) for b in range(len(x))]
    return torch.cat(images)


def check(found, exact, tolerance=4e-4):
    assert (found.double() - exact).norm() <= tolerance * exact.norm()


@needs_boxes
@pytest.mark.parametrize("blocks", SMALL, ids=["small", "larger"])
@pytest.mark.parametrize("case", CASES)
def test_equals_conv2d_image_by_image(case, blocks):
    batch, c_in, c_out, image, size, padding, dilation = CASES[case]
    x, k = images(batch, c_in, *image), torch.randn(batch, size**2, c_out, c_in).to(DEVICE, torch.float16)
    exact = expected(x, k, size, padding, dilation)
    y = written(exact.shape)
    convolve(Scaled(x), Scaled(k), y, 1, (1, 1), padding, dilation, blocks=blocks)
    check(y, exact)
    dx, other = written(x.shape), torch.randn(batch, size**2, c_out, c_in).to(DEVICE, torch.float16)
    if c_out % 8 == 0:
        dy, weights = images(*exact.shape), as_weights(other, size)
        grads = [
            torch.nn.grad.conv2d_input(x[b : b + 1].shape, weights[b], dy[b : b + 1].double(), 1, padding, dilation)
            for b in range(batch)
        ]
        turned = other.transpose(2, 3).contiguous()
        convolve(Scaled(dy), Scaled(turned), dx, 1, (1, 1), padding, dilation, transposed=True, blocks=blocks)
        check(dx, torch.cat(grads))


@needs_boxes
@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_factors_and_layouts_of_the_output(memory_format, dtype):
    x, k = images(3, 16, 6, 7), torch.randn(3, 9, 8, 16).to(DEVICE, torch.float16)
    factors = torch.rand(3, device=DEVICE), torch.rand(1, device=DEVICE)
    y = written((3, 8, 6, 7), memory_format, dtype)
    convolve(Scaled(x, factors[0]), Scaled(k, factors[1]), y, 1, (1, 1), (1, 1), (1, 1), blocks=SMALL[0])
    exact = expected(x, k, 3, (1, 1), (1, 1)) * (factors[0][:, None, None, None] * factors[1]).double()
    check(y, exact)


@needs_boxes
def test_parts_of_images_and_of_batches():
    """What lies between the values of a view is not read."""
    whole = images(5, 32, 8, 9)
    k = torch.randn(2, 9, 8, 16).to(DEVICE, torch.float16)
    for x in (whole[1:3, :16], whole[2:4, 16:, 1:7, 2:], whole[::3, 8:24, ::2, ::2]):
        assert suits_boxes(x, 1, (1, 1))
        exact = expected(x, k, 3, (1, 1), (1, 1))
        y = written(exact.shape)
        convolve(Scaled(x), Scaled(k), y, 1, (1, 1), (1, 1), (1, 1), blocks=SMALL[1])
        check(y, exact)


@pytest.mark.skipif(DEVICE != "cuda", reason="the interpreter would take minutes")
@needs_boxes
@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("blocks", TABLE, ids=str)
def test_blocks_of_the_table(blocks, memory_format):
    """Many tiles a program, so that one is read while the last is still written; the same in every run."""
    x, k = images(16, 136, 61, 59), torch.randn(16, 9, 200, 136).to(DEVICE, torch.float16)
    exact = expected(x, k, 3, (1, 1), (1, 1))
    results = []
    for _ in range(3):
        y = written(exact.shape, memory_format)
        convolve(Scaled(x), Scaled(k), y, 1, (1, 1), (1, 1), (1, 1), blocks=blocks)
        results.append(y)
    check(results[0], exact)
    assert all(y.equal(results[0]) for y in results)


READABLE = {
    "as they are": (lambda: images(2, 16, 5, 5), {}, True),
    "groups": (lambda: images(2, 16, 5, 5), dict(groups=2), False),
    "a stride": (lambda: images(2, 16, 5, 5), dict(stride=(2, 1)), False),
    "pixels of 24 bytes": (lambda: images(2, 12, 5, 5), {}, False),
    "float32": (lambda: images(2, 16, 5, 5).float(), {}, False),
    "contiguous": (lambda: images(2, 16, 5, 5, memory_format=torch.contiguous_format), {}, False),
    "pixels apart by 34 bytes": (lambda: images(2, 17, 5, 5)[:, :16], {}, False),
    "first at 8 bytes": (lambda: images(2, 24, 5, 5)[:, 4:20], {}, False),
    "one image for all": (lambda: images(1, 16, 5, 5).expand(2, -1, -1, -1), {}, False),
    "no image": (lambda: images(0, 16, 5, 5), {}, False),
}


@needs_boxes
@pytest.mark.parametrize("case", READABLE)
def test_what_boxes_can_read(case):
    make, change, suits = READABLE[case]
    assert suits_boxes(make(), **(dict(groups=1, stride=(1, 1)) | change)) == suits


@needs_boxes
@pytest.mark.parametrize("channels, side, called", [(16, 9, True), (8, 9, False), (16, 8, False)])
def test_the_table_says_where(monkeypatch, channels, side, called):
    seen = []
    monkeypatch.setattr(conv_launch, "convolve_boxes", lambda *_: seen.append(True))
    x, k = images(1, channels, side, side), torch.randn(1, 1, 72, channels).to(DEVICE, torch.float16)
    y = written((1, 72, side, side))
    convolve(Scaled(x), Scaled(k), y, 1, (1, 1), (0, 0), (1, 1))
    assert bool(seen) == called


@pytest.mark.parametrize("pixels", [16, 64, 128, 256])
@pytest.mark.parametrize("image, box", [((1, 1), None), ((14, 14), (16, 16)), ((56, 56), (8, 8)), ((3, 500), None)])
def test_box_covers_with_few(pixels, image, box):
    h, w = boxes._box(pixels, *image)
    assert h * w == pixels
    needed = -(-image[0] // h) * -(-image[1] // w)
    assert needed == min(-(-image[0] // (pixels >> i)) * -(-image[1] // (1 << i)) for i in range(pixels.bit_length()))
    if box is not None and box[0] * box[1] == pixels:
        assert (h, w) == box
