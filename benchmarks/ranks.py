"""A function in several new processes that form a world, for the benchmarks."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from recognition.distributed.collectives import gather_values
from recognition.distributed.world import join_world


def run_ranks(ranks: int, device: str, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call function(world, *arguments) in `ranks` new processes of one thread; return what each returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    told = (ranks, device, port, sender, function, arguments)
    processes = [context.Process(target=_rank, args=(rank, *told)) for rank in range(ranks)]
    try:
        for process in processes:
            process.start()
        sender.close()
        results: list[Any] = receiver.recv()
        for process in processes:
            process.join(30)  # let them clean up after themselves
        return results
    except EOFError:
        raise RuntimeError("a rank died, most likely for want of memory") from None
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(
    rank: int, ranks: int, device: str, port: int, sender: Any, function: Callable[..., Any], arguments: Any
) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    with join_world(device) as world:  # type: ignore[arg-type]
        everyones = gather_values(function(world, *arguments), world)
        if world.is_main:
            sender.send(everyones)
