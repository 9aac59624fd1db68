"""The processes of a run: who this one is, and how it reaches the others.

The only place besides the scripts' main() that reads the environment.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from recognition.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process among the `size` processes of the run."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which informs and publishes."""
        return self.rank == 0


@contextlib.contextmanager
def join_world(device: Literal["auto", "cpu", "cuda"] = "auto", *, timeout_s: float = 1800.0) -> Iterator[World]:
    """Join the process group that torchrun describes, or form a world of one without a launcher.

    gloo on CPU, NCCL on CUDA (with gloo beside it for CPU tensors). Raises ConfigError when CUDA is asked for and
    absent or when there are fewer GPUs than processes on this node.
    """
    rank = int(os.environ.get("RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local_rank)
    if size > 1:
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
    try:
        yield World(rank, size, local_rank, chosen)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def declared_size() -> int:
    """Return the number of processes the launcher states, without joining them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def declared_local_size() -> int:
    """Return the number of processes the launcher states for this machine, without joining them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def declared_rank() -> int:
    """Return the rank the launcher gave this process, without joining the others."""
    return int(os.environ.get("RANK", "0"))


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda" means here for the `local_rank`-th process; "auto" prefers CUDA.

    Raises ConfigError when CUDA is asked for and absent or when this process has no GPU of its own.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device: 'cuda' was asked for and no CUDA device is visible; set device=cpu or device=auto")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"device: local rank {local_rank} has no GPU of its own, {torch.cuda.device_count()} are visible; "
            "lower --nproc_per_node"
        )
    chosen = torch.device("cuda", local_rank)
    torch.cuda.set_device(chosen)
    return chosen
