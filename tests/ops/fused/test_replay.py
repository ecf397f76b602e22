"""Recorded launches against the same launches made anew: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from fused import DEVICE, needs_kernels

from monai_crossd.ops.fused.columns.products import add_product, product
from monai_crossd.ops.fused.launches import replay
from monai_crossd.ops.fused.shift.launch import write_gradient, write_operator

pytestmark = [
    pytest.mark.usefixtures("nothing_recorded"),
    needs_kernels,
]


def operators(r):
    """Shift operators by one launch."""
    operator = r.new_empty((len(r), 9, 27))
    write_operator(r, operator, 3)
    return operator


def gradients(r, steps=3):
    """A chain through temporary tensors: each operator is the gradient from which the next numbers come."""
    for _ in range(steps):
        found = torch.empty_like(r)
        write_gradient(operators(r)[None, :, None], r, found, 3)
        r = found
    return r


def test_repeats_with_other_tensors(monkeypatch):
    calls = []

    def function(r, unused):
        calls.append(1)
        return [gradients(r), operators(r), unused]

    for seed in range(3):
        torch.manual_seed(seed)
        r = torch.randn(5, 4, device=DEVICE)
        unused = torch.zeros(3, device=DEVICE)
        found, other, same = replay.repeated("key", function, r, unused)
        torch.testing.assert_close(found, gradients(r))
        torch.testing.assert_close(other, operators(r))
        assert same is unused
    assert len(calls) == 1


def test_inputs_may_be_parts_of_one_tensor_or_not():
    def function(first, second):
        return [operators(second[1:])]

    whole = torch.randn(9, 4, device=DEVICE)
    apart = torch.randn(3, 4, device=DEVICE), torch.randn(6, 4, device=DEVICE)
    for first, second in ((whole[:3], whole[3:]), apart, (whole[:3], whole[3:])):
        torch.testing.assert_close(replay.repeated("key", function, first, second)[0], operators(second[1:]))


@pytest.mark.parametrize("same_first", [True, False])
def test_inputs_may_be_one_tensor_or_not(same_first):
    def function(first, second):
        return [operators(second)]

    one, other = torch.randn(5, 4, device=DEVICE), torch.randn(5, 4, device=DEVICE)
    for second in (one, other, one, other) if same_first else (other, one, other, one):
        torch.testing.assert_close(replay.repeated("key", function, one, second)[0], operators(second))


def test_inputs_that_lie_between_one_another():
    def function(first, second):
        return [operators(first[1:]), operators(second[1:])]

    whole = torch.randn(12, 4, device=DEVICE)  # rows in turn
    for first, second in ((whole[::2], whole[1::2]), (whole[1::2], torch.randn(12, 4, device=DEVICE)[::2])):
        for one, expected in zip(replay.repeated("key", function, first, second), function(first, second), strict=True):
            torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calls_of_the_library_are_repeated(dtype):
    calls = []

    def function(a, b):
        calls.append(1)
        between, found = a.new_empty((4, 6)), a.new_empty((6, 4), dtype=torch.float32)
        replay.call(product, a[1:], b.t(), between)
        replay.call(product, between.t(), a[1:, :4], found)
        replay.call(add_product, between.t(), a[1:, :4], found)
        return [found]

    for seed in range(5):
        torch.manual_seed(seed)
        a, b = torch.randn(5, 8, device=DEVICE).to(dtype), torch.randn(6, 8, device=DEVICE).to(dtype)
        (found,) = replay.repeated("key", function, a, b)
        expected = 2 * (a[1:].float() @ b.float().t()).to(dtype).float().t() @ a[1:, :4].float()
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
        del found  # so that on a GPU its address comes back
    assert len(calls) == 1


def test_results_of_one_call_outlive_the_next():
    kept = []
    for seed in range(2):
        torch.manual_seed(seed)
        r = torch.randn(2, 4, device=DEVICE)
        kept.append((replay.repeated("key", lambda r: [operators(r)], r)[0], operators(r)))
    for found, expected in kept:
        torch.testing.assert_close(found, expected)


def test_temporary_tensors_that_live_together_do_not_overlap():
    def function(r):
        first, second, found = operators(r[:2]), operators(r[2:]), torch.empty_like(r)
        write_gradient(first[None, :, None], r[:2], found[:2], 3)
        write_gradient(second[None, :, None], r[2:], found[2:], 3)
        return [found]

    for seed in range(2):
        torch.manual_seed(seed)
        r = torch.randn(4, 4, device=DEVICE)
        torch.testing.assert_close(replay.repeated("key", function, r)[0], function(r)[0])


@pytest.mark.parametrize("change", [lambda r: r.add_(1), lambda r: r * 2, lambda r: r.sum().item()])
def test_what_does_more_is_called_as_it_is(change):
    calls = []

    def function(r):
        calls.append(1)
        change(r)
        return [operators(r)]

    r = torch.randn(2, 4, device=DEVICE)
    for _ in range(3):
        (found,) = replay.repeated("key", function, r)
        torch.testing.assert_close(found, operators(r))
    assert len(calls) == 3


def test_inputs_at_odd_addresses_are_called_as_they_are():
    block = torch.randn(9, device=DEVICE)
    for offset in (0, 1, 0):
        r = block[offset : offset + 8].view(2, 4)
        torch.testing.assert_close(replay.repeated("key", lambda r: [operators(r)], r)[0], operators(r))


def test_views_of_inputs_and_of_temporary_tensors_keep_their_place():
    def function(r):
        operator, found = operators(r[2:]), r.new_empty((6, 4))
        write_gradient(operator[:2][None, :, None], r[2:4], found[4:], 3)
        write_gradient(operator[2:][None, :, None], r[4:], found[2:4], 3)
        write_gradient(operator[2:][None, :, None], r[4:], found[:2], 3)
        return [found]

    for seed in range(2):
        torch.manual_seed(seed)
        r = torch.randn(6, 4, device=DEVICE)
        torch.testing.assert_close(replay.repeated("key", function, r)[0], function(r)[0])


def test_old_records_make_room(monkeypatch):
    monkeypatch.setattr(replay, "PLANS", 2)
    r = torch.randn(2, 4, device=DEVICE)
    for key in range(5):
        replay.repeated(key, lambda r: [operators(r)], r)
    assert len(replay._plans) <= 2
