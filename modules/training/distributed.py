"""One process or many: which device is ours, and what the ranks must agree on.

torchrun gives rank, world size and a free port through the environment; without it nothing distributed is set
up. Every function here works unchanged with one process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modules.devices import pick_device
from modules.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """``module`` on our device; with several ranks its gradients are averaged over them."""
        module = module.to(self.device)
        if self.world_size == 1:
            return module
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)

    def highest(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over all ranks.

        Goes over CPU memory, so it does not wait for the device. All ranks must call it at the same point.
        """
        if self.world_size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return shared.tolist()

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all ranks, in float64."""
        if self.world_size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(shared)
        return shared.tolist()

    def mean_tensor(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all ranks, on its device."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def wait(self) -> None:
        """Return when all ranks are here."""
        if self.world_size > 1:
            self.highest([0])


@contextlib.contextmanager
def join_ranks(device_name: str | None = None) -> Iterator[Ranks]:
    """The ranks that torchrun started, or this process alone; left again at the end.

    Args:
        device_name: cpu, cuda, cuda:1, mps, or None for the best there is. Under torchrun each process of a
            machine takes the CUDA device of its local rank.

    Raises:
        UserError: the device is not there, or cannot be shared by several processes.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        device = pick_device(device_name)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        yield Ranks(device)
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    device = pick_device(device_name)
    if device.type == "mps":
        raise UserError("MPS cannot be shared by several processes", "torchrun", "start one process, or --device cpu")
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            fix = f"torchrun --nproc_per_node={torch.cuda.device_count()}"
            raise UserError(f"there is no GPU for local rank {local_rank}", "torchrun --nproc_per_node", fix)
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(device, rank, world_size)
    finally:
        dist.destroy_process_group()
