"""The processes of one training, and what they ask each other.

Owns joining them, and the few questions that a training asks over all of them: the mean of a number, whether weights are equal,
what an exchange costs. Never starts a process (`launch` and torchrun do), and works the same with one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from defectlab import lab


@dataclass(frozen=True, slots=True)
class World:
    """Where this process stands among the others.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        local: its number on this host, which is also the number of its GPU.
        device: where it computes.
    """

    rank: int
    size: int
    local: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0


@contextlib.contextmanager
def world(threads: int = 0) -> Iterator[World]:
    """Join the other processes: NCCL between GPUs, gloo between CPUs.

    Args:
        threads: CPU threads of each rank; 0 shares out the CPUs that the lab was given.
    """
    local, cuda = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    # Together they must not start more threads than there are CPUs.
    share = int(lab.look().cpus) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, share))
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), local, device)
    finally:
        dist.destroy_process_group()


def total(value: Tensor) -> float:
    """The sum of a number over all ranks."""
    value = value.clone()
    dist.all_reduce(value)
    return float(value)


def same_weights(network: nn.Module) -> bool:
    """Whether all ranks hold the same weights, to the bit."""
    flat = torch.cat([weights.detach().reshape(-1) for weights in network.parameters()])
    low, high = flat.clone(), flat.clone()
    dist.all_reduce(low, op=dist.ReduceOp.MIN)
    dist.all_reduce(high, op=dist.ReduceOp.MAX)
    return torch.equal(low, high)


def all_reduce_seconds(here: World, numbers: int, repeats: int = 20) -> float:
    """Seconds that the ranks need to average so many numbers."""
    tensor = torch.ones(numbers, device=here.device)
    for _ in range(3):
        dist.all_reduce(tensor)
    dist.barrier()
    if here.device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        dist.all_reduce(tensor)
    if here.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats
