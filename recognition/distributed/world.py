"""The processes of a run: who this one is, and how it reaches the others.

The only place besides the scripts' main() that reads the environment.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from recognition.errors import ArcShardError, ConfigError

_LET_GO_S = 0.2
_MOST_RANKS = 1 << 16
_BACKENDS_ON_CUDA = "cpu:gloo,cuda:nccl"
_NCCL_WAITS = 2  # times as long as gloo
# gloo raises plain RuntimeErrors; these are its words, and those of torch's store.
_IS_SILENT = re.compile(r"[Tt]imed out|[Tt]imeout")
_OF_A_COLLECTIVE = re.compile(r"gloo|Connection closed by peer|Connection reset|Broken pipe|Timed out waiting|NCCL")


class LostRanksError(ArcShardError):
    """Another rank has ended or stands still; this one cannot go on alone."""


@dataclass(frozen=True)
class World:
    """This process among the `size` processes of the run."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    """Whose collectives these are; None: the default group, or no group in a world of one."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which informs and publishes."""
        return self.rank == 0


@contextlib.contextmanager
def join_world(device: Literal["auto", "cpu", "cuda"] = "auto", *, timeout_s: float = 600.0) -> Iterator[World]:
    """Join the process group that torchrun describes, or form a world of one without a launcher.

    gloo on CPU, NCCL on CUDA (with gloo beside it for CPU tensors); a collective waits `timeout_s` for the others.
    NCCL's own limit is longer: its watchdog ends the process without a word, so that gloo has to speak first. With NCCL
    an error leaves the group as it is (`leave_at_once` then ends the process). Raises ConfigError when the environment
    describes no world, when CUDA is asked for and absent or when there are fewer GPUs than processes on this node, and
    LostRanksError when another rank does not come or is lost on the way.
    """
    size = declared_size()
    rank = declared_rank()
    local_rank = declared_local_rank()
    if size > 1:
        _check_meeting_place()
    chosen = choose_device(device, local_rank)
    world = World(rank, size, local_rank, chosen)
    has_failed = True
    try:
        with naming_lost_ranks(world, lambda: "at start-up"):
            if size > 1:
                _join(world, datetime.timedelta(seconds=timeout_s))
            yield world
        has_failed = False
    finally:
        if dist.is_initialized() and not (has_failed and _shutdown_waits(world)):
            # gloo's threads let go of the last collective's tensors after it is done, which takes the interpreter; one
            # that comes to it while Python ends aborts the process: 8 of 144 did on a busy machine, 0 of 120 with this.
            time.sleep(_LET_GO_S)
            dist.destroy_process_group()


def _shutdown_waits(world: World) -> bool:
    """Whether leaving the group waits for the other ranks, as NCCL's does: they may never come to it."""
    return world.device.type == "cuda"


def leave_at_once(run: Callable[[], int]) -> int:
    """Return what `run` returns, but end the process with it where an error has left a process group behind.

    Neither torch's shutdown of the group nor Python's own end runs then: both may wait for ranks that never come. What
    is to be stopped or written has been by now. Everywhere else errors pass through.
    """
    try:
        status = run()
    except SystemExit as end:
        _leave_group_behind(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except BaseException:
        if dist.is_initialized():
            traceback.print_exc()
        _leave_group_behind(1)
        raise
    _leave_group_behind(status)
    return status


def _leave_group_behind(status: int) -> None:
    if not dist.is_initialized() or not status:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


def joined_world(device: torch.device | str = "cpu", group: dist.ProcessGroup | None = None) -> World:
    """Return this process's place in `group`, or in the default group; a world of one where none was formed.

    For a program that has formed its process group itself; `join_world` forms one.
    """
    if not dist.is_available() or not dist.is_initialized():
        return World(0, 1, 0, torch.device(device))
    return World(dist.get_rank(group), dist.get_world_size(group), 0, torch.device(device), group)


def _join(world: World, timeout: datetime.timedelta) -> None:
    try:
        store, _, _ = next(iter(rendezvous("env://", world.rank, world.size, timeout=timeout)))
    except dist.DistNetworkError as err:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(err).strip().partition("\n")[0]
        raise LostRanksError(
            f"rank {world.rank}: MASTER_ADDR:MASTER_PORT {place} cannot be reached or opened ({reason[:200]}); "
            "expected the address of rank 0 and a free port there; correct them, or start with torchrun"
        ) from err
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun's store outlives a restart, and with it the addresses of dead processes: whoever comes first would
        # read the one that the other has not replaced yet.
        store = PrefixStore(f"start {declared_restart()}", store)
    if world.device.type != "cuda":
        dist.init_process_group("gloo", store=store, rank=world.rank, world_size=world.size, timeout=timeout)
        return
    dist.init_process_group(
        _BACKENDS_ON_CUDA, store=store, rank=world.rank, world_size=world.size, timeout=_NCCL_WAITS * timeout
    )
    assert dist.group.WORLD is not None, "a group was just formed"
    dist.group.WORLD._get_backend(torch.device("cpu"))._set_default_timeout(timeout)


@contextlib.contextmanager
def naming_lost_ranks(world: World, where: Callable[[], str]) -> Iterator[None]:
    """Turn the error of a collective whose other ranks are gone or silent into one line; `where` says how far it is."""
    try:
        yield
    except RuntimeError as err:
        if world.size == 1 or not (isinstance(err, dist.DistError) or _OF_A_COLLECTIVE.search(str(err))):
            raise
        is_silent = _IS_SILENT.search(str(err)) is not None
        found = "waited in vain for the other ranks" if is_silent else "lost the connection to another rank"
        raise LostRanksError(
            f"rank {world.rank}: {found} {where()}; expected all {world.size}; one has died or is stopped: see the "
            "ends of logs/rank*.log, then resume"
        ) from err


def declared_restart() -> int:
    """Return how often torchrun has started this run again after a failure; 0 the first time and without torchrun."""
    return _declared("TORCHELASTIC_RESTART_COUNT", 0, range(_MOST_RANKS))


def report_to_launcher(line: str, *, is_final: bool) -> None:
    """Give torchrun the line that ends this process, which it then reports as the root cause; nothing without it.

    `is_final`: a restart would end with the same line. torchrun has no word for that, and where it would start the
    ranks again it is asked to end instead, by the first rank of the node that comes here.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    now = str(int(time.time()))
    # What torchrun prints under "traceback" is the call stack, and the message only where there is none.
    report = {"message": {"message": line, "extraInfo": {"py_callstack": line, "timestamp": now}}}
    with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as handle:
        json.dump(report, handle)
    has_restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "") != os.environ.get("TORCHELASTIC_MAX_RESTARTS", "")
    if is_final and has_restarts and _is_torchrun(os.getppid()):
        with contextlib.suppress(OSError):
            # In the folder of this start, which the ranks of the node share: a second signal would cut its end short.
            os.close(os.open(Path(path).parent.parent / "ending", os.O_CREAT | os.O_EXCL))
            os.kill(os.getppid(), signal.SIGTERM)


def _is_torchrun(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.endswith((b"torchrun", b"torch.distributed.run", b"torch/distributed/run.py")) for word in words)


def launcher_name() -> str:
    """Return what tells the process that started this one from any other: its host, id and time of start.

    It is the same through all of torchrun's restarts of a run, and another for every torchrun.
    """
    parent = os.getppid()
    started = ""
    with contextlib.suppress(OSError, IndexError):  # only Linux has it
        started = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return f"{socket.gethostname()} {parent} {started}".strip()


def declared_size() -> int:
    """Return the number of processes the launcher states, without joining them."""
    return _declared("WORLD_SIZE", 1, range(1, _MOST_RANKS))


def declared_local_size() -> int:
    """Return the number of processes the launcher states for this machine, without joining them."""
    return _declared("LOCAL_WORLD_SIZE", 1, range(1, declared_size() + 1))


def declared_local_rank() -> int:
    """Return the rank on this machine that the launcher gave this process, without joining the others."""
    return _declared("LOCAL_RANK", 0, range(declared_size()))


def declared_rank() -> int:
    """Return the rank the launcher gave this process, without joining the others."""
    return _declared("RANK", 0, range(declared_size()))


def _declared(name: str, default: int, allowed: range) -> int:
    """Return a number that the launcher states; ConfigError when it is none or not `allowed`."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    value = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1
    if value not in allowed:
        raise ConfigError(
            f"{name}: found {text!r} in the environment, expected a whole number from {allowed.start} to "
            f"{allowed.stop - 1}; unset it, or start with torchrun"
        )
    return value


def _check_meeting_place() -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name, "").strip():
            raise ConfigError(
                f"{name}: not set, but WORLD_SIZE is {os.environ['WORLD_SIZE']}; expected what torchrun sets; unset "
                "WORLD_SIZE, or start with torchrun"
            )
    _declared("MASTER_PORT", 0, range(1, 1 << 16))


def planned_device(device: str) -> str:
    """Return "cuda" or "cpu": what a run with this `device` computes on here, or elsewhere where CUDA is asked for."""
    return "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"


def fix_cublas_order() -> None:
    """Let cuBLAS sum in one order; it reads this when it is first used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda" means here for the `local_rank`-th process; "auto" prefers CUDA.

    Raises ConfigError when CUDA is asked for and absent or when this process has no GPU of its own.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("device: found 'cuda', but no CUDA device is visible; set device=cpu or device=auto")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"device: local rank {local_rank} has no GPU of its own, {torch.cuda.device_count()} are visible; "
            "lower --nproc_per_node"
        )
    chosen = torch.device("cuda", local_rank)
    torch.cuda.set_device(chosen)
    return chosen
