"""The faults that a rank does to itself, by wrapping named functions of the program before it starts.

Everything up to the fault is the program's own doing: a killed save has written what it would have written.
"""

from __future__ import annotations

import functools
import itertools
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from recognition.distributed import manifest, publish, saver, tensor_file, world
from recognition.training.trainer import Trainer

Fault = Mapping[str, Any]
_FILES = {"rows": "rows_", "replicated": "replicated.", "local": "local_"}


def inject(fault: Fault) -> None:
    """Prepare this process to do the fault that `fault["kind"]` names."""
    kinds: dict[str, Callable[[Fault], None]] = {
        "kill in a save": _kill_in_save,
        "nan": _break_centers,
        "slow": _slow_down,
        "file limit": _limit_files,
        "clock": _jump_clock,
        "error beside NCCL": _fail_beside_nccl,
    }
    kinds[fault["kind"]](fault)


def _kill_in_save(fault: Fault) -> None:
    """Die in save number `save` (from 1): at the place named, and there after `share` of the file's bytes."""
    place, save = fault["place"], fault["save"]
    if place == "staging":
        _wrap(saver, "stage_tensors", before=_at_call(save, die))
    elif place == "manifest":
        _wrap(Path, "write_bytes", before=_at_call(save, _write_share(fault["share"]), only=_is_manifest))
    elif place == "rename":
        _wrap(publish, "rename_folder", before=_at_call(save, die))
    elif place == "latest":
        _wrap(publish, "write_pointer", before=_at_call(save, die, only=lambda _, name, __: name == "latest"))
    elif place == "pruning":
        _wrap(shutil, "rmtree", before=_at_call(save, die, only=_is_discarded))
    else:
        _kill_in_file(_FILES[place], save, fault["share"])


def _kill_in_file(prefix: str, save: int, share: float) -> None:
    """Die in the `save`-th writing of a file of that name, once `share` of its bytes are written and synced."""
    calls = 0
    write = publish.write_tensor_file

    def write_or_die(path: Path, tensors: Mapping[str, Any], **options: Any) -> Any:
        nonlocal calls
        calls += path.name.startswith(prefix)
        if calls == save and path.name.startswith(prefix):
            size = sum(tensor.nbytes for tensor in tensors.values())
            tensor_file.open = functools.partial(_open_to_die, int(size * share))  # type: ignore[attr-defined]
        return write(path, tensors, **options)

    publish.write_tensor_file = write_or_die  # type: ignore[assignment]


def _open_to_die(limit: int, path: Path, mode: str, **options: Any) -> Any:
    """Open a file for writing whose byte number `limit` is the process's last."""
    handle = open(path, mode, **options)  # noqa: SIM115  (the process dies with it)
    write, written = handle.write, 0

    class Doomed:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            die()

        def write(self, chunk: memoryview) -> None:
            nonlocal written
            write(chunk[: limit - written])
            written += len(chunk)
            if written >= limit:
                handle.flush()
                os.fsync(handle.fileno())
                die()

    return Doomed()


def _write_share(share: float) -> Callable[..., NoReturn]:
    def write_and_die(path: Path, content: bytes) -> NoReturn:
        with open(path, "wb") as handle:
            handle.write(content[: int(len(content) * share)])
        die()

    return write_and_die


def _is_manifest(path: Path, _: bytes) -> bool:
    return path.name.startswith(f".{manifest.NAME}.")


def _is_discarded(path: Path, **_: Any) -> bool:
    return str(path).endswith(".old") and Path(path).exists()


def _break_centers(fault: Fault) -> None:
    """Put a NaN into this rank's first center before step `step`, and leave it there."""

    def break_at(trainer: Trainer, *_: object) -> None:
        if trainer.state.step == fault["step"]:
            trainer.parts.head.state_rows()["centers"][0, 0] = float("nan")

    _wrap(Trainer, "train_step", before=break_at)


def _slow_down(fault: Fault) -> None:
    """Sleep before steps: `pause_s` before each, or before step `step` alone when it is named."""

    def pause(trainer: Trainer, *_: object) -> None:
        if fault.get("step") in (None, trainer.state.step):
            time.sleep(fault["pause_s"])

    _wrap(Trainer, "train_step", before=pause)


def _limit_files(fault: Fault) -> None:
    """Let no file grow beyond `bytes` from step `step` on: the write that tries gets an error, as on a full disk."""

    def limit(trainer: Trainer, *_: object) -> None:
        if trainer.state.step == fault["step"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"], resource.RLIM_INFINITY))

    _wrap(Trainer, "train_step", before=limit)


def _jump_clock(_: Fault) -> None:
    """Let the time of day jump back and forth by years at each look; the monotonic clocks go on."""
    real, jumps = time.time, itertools.cycle((0.0, 3e8, -3e8, 1e9, -1.5e9))
    time.time = lambda: real() + next(jumps)


def _fail_beside_nccl(fault: Fault) -> None:
    """Fail before step `step` on rank `fails`, in a group whose shutdown waits for ranks that never come, as NCCL's."""
    world._shutdown_waits = lambda _: True
    dist.destroy_process_group = lambda *_: time.sleep(3600)

    def fail(trainer: Trainer, *_: object) -> None:
        if trainer.state.step == fault["step"] and trainer.world.rank == fault["fails"]:
            raise ZeroDivisionError("a mistake of ours")

    _wrap(Trainer, "train_step", before=fail)


def _wrap(owner: Any, name: str, *, before: Callable[..., object]) -> None:
    """Let `before` see the arguments of every call of owner.name first."""
    wrapped = getattr(owner, name)

    @functools.wraps(wrapped)
    def call(*arguments: Any, **options: Any) -> Any:
        before(*arguments, **options)
        return wrapped(*arguments, **options)

    setattr(owner, name, call)


def _at_call(
    number: int, action: Callable[..., object], *, only: Callable[..., bool] = lambda *_, **__: True
) -> Callable[..., None]:
    """Return a function that does `action` at the `number`-th of its calls for which `only` holds."""
    calls = 0

    def count(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += only(*arguments, **options)
        if calls == number and only(*arguments, **options):
            action(*arguments, **options)

    return count


def die(*_: object, **__: object) -> NoReturn:
    """End this process as the kernel's memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL returned")
