"""A fused layer in two processes that train together: gradients are the mean of both."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from fused import DEVICE, needs_kernels
from torch import nn

from monai_crossd import CrossDConv


def gradients(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    net(x).square().sum().backward()
    return [p.grad.cpu().clone() for p in net.parameters()]


def one_of_two(rank: int, folder: str, net: nn.Module, x: torch.Tensor, compiled: bool) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    together = nn.parallel.DistributedDataParallel(net.to(DEVICE))
    run = torch.compile(together, backend="aot_eager") if compiled else together
    for _ in range(2):  # the second time from records
        found = gradients(run, x.to(DEVICE).chunk(2)[rank])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    del run, together  # what it holds of the group goes first: else one process may wait for the other at its end
    dist.destroy_process_group()


@needs_kernels
@pytest.mark.parametrize("side, compiled", [(9, False), (3, False), (9, True)], ids=["kernels", "columns", "compiled"])
def test_processes_share_gradients(tmp_path, side, compiled):
    torch.manual_seed(0)
    net = nn.Sequential(CrossDConv(2, 4, 3), CrossDConv(4, 64, 3, padding=1, bias=False))
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(4, 2, side + 2, side + 2)
    processes.spawn(one_of_two, (str(tmp_path), copy.deepcopy(net), x, compiled), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    net.to(DEVICE)
    apart = zip(*(gradients(net, half.to(DEVICE)) for half in x.chunk(2)), strict=True)
    for a, b, halves in zip(first, second, apart, strict=True):
        expected = sum(halves) / 2
        torch.testing.assert_close(a, expected, rtol=4e-3, atol=4e-3 * expected.abs().max().item())
        torch.testing.assert_close(a, b, rtol=0, atol=0)
