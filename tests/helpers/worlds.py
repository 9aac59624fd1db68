"""Run a function as every rank of a small gloo world and collect what each returns."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recognition.distributed.world import World


def run_world(size: int, fn: Callable[..., Any], *args: Any, timeout_s: float = 60.0) -> list[Any]:
    """Call fn(world, *args) in `size` spawned processes of one thread each and return the results in rank order.

    `fn` is a function of a module; arguments and results are picklable. With one rank it runs here, without a process
    group. Raises AssertionError with the traceback of the first rank that fails, or naming the ranks that did not end
    in time.
    """
    if size == 1:
        return [_alone(fn, args)]
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe(duplex=False) for _ in range(size)]
        processes = [
            context.Process(target=_rank, args=(rank, size, f"{folder}/store", sender, fn, args), daemon=True)
            for rank, (_, sender) in enumerate(pipes)
        ]
        try:
            for process in processes:
                process.start()
            for _, sender in pipes:
                sender.close()
            return _collect([receiver for receiver, _ in pipes], timeout_s)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()


def world_sizes(*sizes: int, long: int | None = None) -> list[Any]:
    """Return sizes of worlds as parameters of a test: one process is quick, spawned ones are slow, or `long`.

    A spawned rank imports torch anew, which takes over a second: one world per size should run all cases of a module.
    """
    marked = [pytest.param(size, marks=[pytest.mark.slow] if size > 1 else []) for size in sizes]
    return marked + ([pytest.param(long, marks=pytest.mark.long)] if long else [])


def _alone(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fn(World(0, 1, 0, torch.device("cpu")), *args)
    finally:
        torch.set_num_threads(threads)


def _rank(rank: int, size: int, store: str, sender: Any, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        result = fn(World(rank, size, rank, torch.device("cpu")), *args)
        dist.barrier()
        sender.send_bytes(pickle.dumps((True, result)))
    except BaseException:
        sender.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        sender.close()
        if dist.is_initialized():
            dist.destroy_process_group()


def _collect(receivers: list[Any], timeout_s: float) -> list[Any]:
    results: dict[int, Any] = {}
    deadline = time.monotonic() + timeout_s
    while len(results) < len(receivers):
        waiting = {receiver: rank for rank, receiver in enumerate(receivers) if rank not in results}
        ready = multiprocessing.connection.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"ranks {sorted(waiting.values())} did not end within {timeout_s:g} s")
        for receiver in ready:
            rank = waiting[receiver]  # type: ignore[index]
            try:
                succeeded, result = pickle.loads(receiver.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                raise AssertionError(f"rank {rank} died without a word") from None
            if not succeeded:
                raise AssertionError(f"rank {rank} failed:\n{result}")
            results[rank] = result
    return [results[rank] for rank in range(len(receivers))]
