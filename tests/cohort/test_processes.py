"""Processes share cases and GPUs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from cohort_runs import ALL, make

from monai_crossd.cohort import cohort, processes


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_case_has_one_process(folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for index in range(count):
        monkeypatch.setattr(cohort, "world_size", lambda: count)
        monkeypatch.setattr(cohort, "rank", lambda index=index: index)
        shares.append([case["case"] for case in make(folder).share])
    assert sorted(itertools.chain(*shares)) == list(ALL) and max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_there_is_nothing_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes.join_processes()
    assert (processes.rank(), processes.world_size()) == (0, 1)


@pytest.mark.parametrize(("gpus", "rank", "device"), [(0, "3", "cpu"), (1, "3", "cuda:0"), (2, "1", "cuda:1")])
def test_processes_share_the_gpus(gpus: int, rank: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert str(processes.local_device()) == device
