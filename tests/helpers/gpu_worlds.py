"""A world that believes itself on GPUs: gloo stands in for NCCL, and leaves as NCCL does, which waits for the others.

    RANK=0 WORLD_SIZE=2 ... python -m tests.helpers.gpu_worlds ending

`ending` is what rank 1 meets: error (a line), bug (a traceback), stop (a signal's exit status), silence. With --nccl,
on two GPUs, nothing is a stand-in.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime
import os
import sys
import threading
import time
from typing import Any

import torch
import torch.distributed as dist

from recognition.cli import run_command
from recognition.distributed import world as worlds
from recognition.distributed.collectives import gather_numbers
from recognition.errors import DataError

TIMEOUT_S = 8.0


_LIMITS: list[datetime.timedelta] = []  # what the group was formed with, which NCCL's watchdog keeps


def _form(*args: Any, **settings: Any) -> None:
    _LIMITS.append(settings["timeout"])
    _FORM(*args, **settings)


_FORM = dist.init_process_group


def _destroy_with_the_others() -> None:
    with contextlib.suppress(RuntimeError):
        dist.barrier()  # what ncclCommDestroy is: every rank has to come
    time.sleep(3600)


def _watch() -> None:
    """Abort the process when a collective of the GPU's backend would be late, as NCCL's watchdog does."""
    timer = threading.Timer(_LIMITS[0].total_seconds(), os._exit, [134])
    timer.daemon = True
    timer.start()


def _run(args: argparse.Namespace) -> None:
    with worlds.join_world(timeout_s=TIMEOUT_S) as world:
        gather_numbers([world.rank], world)
        if not args.nccl:
            _watch()
        if args.nccl and world.rank == 0:
            dist.all_reduce(torch.ones(1, device=world.device))  # which rank 1 never enters
        if world.rank == 1:
            if args.ending == "silence":
                time.sleep(3600)
            if args.ending == "stop":
                raise SystemExit(143)
            if args.ending == "bug":
                raise ZeroDivisionError("a mistake of ours")
            raise DataError("train.rec: record 7: found none; expected a JPEG; repair the file")
        gather_numbers([world.rank], world)


def main() -> int:
    """Join, and end as told."""
    parser = argparse.ArgumentParser("fake_train")
    parser.add_argument("ending")
    parser.add_argument("--nccl", action="store_true")
    parser.set_defaults(quiet=False, debug=False)
    if "--nccl" not in sys.argv:
        worlds.choose_device = lambda device, local_rank=0: torch.device("cuda", local_rank)
        worlds._BACKENDS_ON_CUDA = "cpu:gloo,cuda:gloo"
        dist.init_process_group = _form
        dist.destroy_process_group = _destroy_with_the_others
        atexit.register(time.sleep, 3600)  # as the group's destructor waits at Python's end
    return worlds.leave_at_once(lambda: run_command(parser, _run))


if __name__ == "__main__":
    sys.exit(main())
