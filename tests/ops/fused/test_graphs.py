"""When launches become a CUDA graph: the bookkeeping, and on a GPU that a graph does what launches do."""

from __future__ import annotations

import pytest
import torch

from monai_crossd.ops.fused.launches import graphs, replay
from monai_crossd.ops.fused.shift.launch import write_operator

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def done(monkeypatch):
    """What is launched, captured and replayed."""
    log = []

    class Graph:
        def replay(self):
            log.append("replay")

    def captured(device, launches, owner):
        log.append("capture")
        return Graph()

    monkeypatch.setattr(graphs, "_captured", captured)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 7, raising=False)
    return log


def operators(r):
    """Shift operators by one launch."""
    operator = r.new_empty((len(r), 9, 27))
    write_operator(r, operator, 3)
    return [operator]


def test_addresses_met_often_become_a_graph(done):
    one = graphs.Graphs()
    for _ in range(4):
        one.launch((1, 2), DEVICE, done.append)
    one.launch((1, 3), DEVICE, done.append)
    assert done == [7, 7, "capture", "replay", "replay", 7]


def test_a_users_capture_takes_the_launches(done, monkeypatch):
    one = graphs.Graphs()
    for _ in range(3):
        one.launch((1,), DEVICE, done.append)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    one.launch((1,), DEVICE, done.append)
    assert done[-2:] == ["replay", 7]


def test_addresses_that_never_come_back_are_forgotten(done, monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 3)
    one = graphs.Graphs()
    for address in range(10):
        one.launch((address,), DEVICE, done.append)
        assert len(one._known) <= 3
    assert done == [7] * 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_reads_what_lies_at_its_addresses():
    replay.forget()
    r = torch.randn(5, 4, device="cuda")
    for _ in range(2 * graphs.SIGHTINGS + 3):
        r.normal_()
        (found,) = replay.repeated("graph", operators, r)
        assert torch.equal(found, operators(r)[0])
        del found  # so that its address comes back


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_come_again_after_all_have_ended():
    r = torch.randn(5, 4, device="cuda")
    for _ in range(3):
        replay.forget()
        for _ in range(graphs.SIGHTINGS + 3):
            (found,) = replay.repeated("graph", operators, r)
            assert torch.equal(found, operators(r)[0])
            del found
