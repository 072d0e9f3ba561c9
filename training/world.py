"""The processes that train one network together: one, or as many as torchrun started."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from glassrt.engine.errors import TrainingError
from glassrt.engine.runtimes.device import explain_unused

LOGGER = logging.getLogger("glassrt")

PATIENCE = timedelta(days=1)  # one process may look slides over, or map them, while the others wait
VARIABLES = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}  # what torchrun sets, and what one process has


@dataclass(frozen=True)
class World:
    """The processes that train together, and this one's device among them."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def add(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum of every process's counts."""
        if self.size == 1:
            return counts
        total = torch.from_numpy(counts).to(self.device)
        torch.distributed.all_reduce(total)
        return total.cpu().numpy()

    def part(self, batch: int, least: int = 2) -> int:
        """How many of a batch's examples this process draws. Raises TrainingError if they cannot be shared."""
        if batch % self.size or batch // self.size < least:
            raise TrainingError(f"batch = {batch} gives {self.size} processes no equal shares of {least} or more")
        return batch // self.size

    def mean(self, value: Tensor) -> float:
        """The average of every process's value."""
        total = value.detach().clone()
        if self.size > 1:
            torch.distributed.all_reduce(total)
        return float(total) / self.size

    def agree(self, value: float) -> float:
        """The first process's value."""
        if self.size == 1:
            return value
        told = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(told, src=0)
        return float(told)

    def share(self, network: nn.Module) -> nn.Module:
        """The network as all processes train it: gradients averaged, batch norm over every GPU's examples."""
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            return DistributedDataParallel(network, device_ids=[self.device.index])
        return DistributedDataParallel(network)

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def join_world() -> Iterator[World]:
    """The world that torchrun started, or one process alone; a GPU each where there are any."""
    size, rank, local = (int(os.environ.get(name, start)) for name, start in VARIABLES.items())
    if size > 1 and "MASTER_ADDR" not in os.environ:
        raise TrainingError("WORLD_SIZE is set without MASTER_ADDR: start several processes with torchrun, or unset it")
    on_gpu = torch.cuda.is_available()
    if on_gpu and local >= torch.cuda.device_count():
        raise TrainingError(f"process {local} has no GPU: start at most {torch.cuda.device_count()} on this machine")
    device = torch.device(f"cuda:{local}" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    elif line := explain_unused(lambda _: f"torch {torch.__version__} finds no CUDA device"):
        LOGGER.warning("%s", line)
    started = size > 1 and not torch.distributed.is_initialized()
    if started:
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield World(rank, size, device)
    finally:
        if started:
            # gloo ended processes with SIGABRT as they left, in 6 runs of 84 on two busy cores, where what a shared
            # network had left behind outlived the group; in none of 84 so.
            gc.collect()
            torch.distributed.destroy_process_group()
            gc.collect()
