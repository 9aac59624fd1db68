"""Damage to every file of a checkpoint: cut at many lengths, every kind of bit flipped, exchanged, missing.

None may be taken for good: the checkpoint before it is used, with a warning that names what is damaged, or, when it was
the only one, the start is refused.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from recognition.backbones.run_weights import BEST_FILES, MODEL_FILES
from recognition.distributed.checkpoint import choose_checkpoint, list_checkpoints
from recognition.distributed.world import World
from recognition.errors import CheckpointError
from recognition.training.run_folder import STATUS
from tests.faults.cases import ends_well, stops_alike
from tests.faults.launch import Ended, Job
from tests.faults.outcome import Case, Found
from tests.faults.runs import Lab

ALONE = World(0, 1, 0, torch.device("cpu"))
Damage = Callable[[bytes], bytes]


def damage_cases(*, flips: int) -> list[Case]:
    """Return a case for each file of a checkpoint of two ranks, and those in which a job meets a damaged one."""
    shards = [f"{kind}_{rank}.safetensors" for kind in ("rows", "local") for rank in (0, 1)]

    def case(name: str) -> Case:
        run = _in_process(lambda shelf: damage_every_way(shelf, name, flips))
        return Case(f"damage/{name}", f"damaged {name}", "refused", run)

    return [
        *map(case, ["manifest.json", "replicated.safetensors", *shards, "latest"]),
        Case("damage/exchanged", "files missing or exchanged", "refused", _in_process(exchange_every_way)),
        Case("damage/resume", "newest checkpoint damaged, resumed", "bit-equal", _resume_behind_damage),
        Case("damage/none_left", "all checkpoints damaged, resumed", "ended", _none_left),
    ]


def damages(content: bytes, flips: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield (what was done, the damaged bytes): cut short, made longer, bits flipped in the head and at random."""
    size = len(content)
    for length in sorted({0, 1, 7, 8, 9, size // 4, size // 2, size - 8, size - 1} & set(range(size))):
        yield f"cut to {length} bytes", content[:length]
    yield "one byte longer", content + b"\0"
    generator = random.Random(seed)
    bits = [*range(0, min(64, size) * 8, 3), *(generator.randrange(size * 8) for _ in range(flips))]
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {bit // 8} flipped", bytes(flipped)


class Shelf:
    """A folder of two checkpoints, of which one file at a time is damaged and put right again."""

    def __init__(self, source: Path, place: Path) -> None:
        self.folder = place / "checkpoints"
        shutil.copytree(source, self.folder)
        self.newest, self.before, *more = list_checkpoints(self.folder)
        for path in more:
            shutil.rmtree(path)

    def path(self, name: str) -> Path:
        """Return where the file of this name lies: in the newest checkpoint, but for the pointer `latest`."""
        return (self.folder if name == "latest" else self.newest) / name

    def verdict(self, name: str) -> str:
        """Return what is wrong with how the folder is taken while the file `name` is damaged, "" when all is well.

        The program itself moves the refused checkpoint aside; it is put back.
        """
        expected = self.newest if name == "latest" else self.before  # the pointer is for people alone
        with _warnings() as warnings:
            try:
                chosen = choose_checkpoint(self.folder, ALONE)
            except CheckpointError as err:
                return f"refused altogether: {err}"
            finally:
                self._put_back()
        if chosen is None or chosen.path != expected:
            return f"ACCEPTED {chosen and chosen.path.name}; expected {expected.name}"
        if expected == self.before and not any(f"{self.newest.name}/{name}" in line for line in warnings):
            return f"no warning names it: {warnings}"
        return ""

    def verdict_alone(self) -> str:
        """Return what is wrong with how the folder is taken when the damaged checkpoint is the only one."""
        hidden = self.before.rename(self.folder / "hidden")
        with _warnings():
            try:
                chosen = choose_checkpoint(self.folder, ALONE)
            except CheckpointError:
                return ""
            finally:
                hidden.rename(self.before)
                self._put_back()
        return f"ACCEPTED {chosen and chosen.path.name}, the only one"

    def _put_back(self) -> None:
        aside = self.folder / f"refused_{self.newest.name}"
        if aside.exists():
            aside.rename(self.newest)


def damage_every_way(shelf: Shelf, name: str, flips: int) -> tuple[int, str]:
    """Damage one file in every way; return how many ways and what was wrong with the first that was not refused."""
    path = shelf.path(name)
    content = path.read_bytes()
    count, wrong = 0, ""
    for done, damaged in damages(content, flips, seed=1):
        path.write_bytes(damaged)
        found = shelf.verdict(name)
        count += 1
        wrong = wrong or (found and f"{name}, {done}: {found}")
    if name != "latest":
        wrong = wrong or shelf.verdict_alone()
    path.write_bytes(content)
    return count, wrong


def exchange_every_way(shelf: Shelf) -> tuple[int, str]:
    """Take files away, or put others of the same kind in their place; return as `damage_every_way`."""
    names = sorted(path.name for path in shelf.newest.iterdir())
    count, wrong = 0, ""
    for name in names:
        path = shelf.newest / name
        kept = path.rename(shelf.folder / "kept")
        for done, put in _replacements(path, shelf.before / name, names):
            put()
            found = shelf.verdict(name)
            count += 1
            wrong = wrong or (found and f"{name}, {done}: {found}")
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        kept.rename(path)
    return count, wrong


def _replacements(path: Path, older: Path, names: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "missing", lambda: None
    yield "a folder", path.mkdir
    yield "a pipe", lambda: os.mkfifo(path)
    yield "a link to the same file elsewhere", lambda: path.symlink_to(path.parent.parent / "kept")
    yield "that of the checkpoint before", lambda: shutil.copy(older, path)
    for other in names:
        if other != path.name:
            yield f"{other} in its place", lambda other=other: shutil.copy(path.parent / other, path)  # type: ignore[misc]


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect the program's warnings instead of showing them."""
    lines: list[str] = []
    logger, handler = logging.getLogger("recognition"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _in_process(try_all: Callable[[Shelf], tuple[int, str]]) -> Callable[[Lab, Path], Found]:
    def run(lab: Lab, place: Path) -> Found:
        source = lab.reference("fused", 2).run / "checkpoints"
        started = time.perf_counter()
        count, wrong = try_all(Shelf(source, place))
        return Found(Ended(0, time.perf_counter() - started, ()), wrong, f"{count} ways", count)

    return run


def _resume_behind_damage(lab: Lab, place: Path) -> Found:
    """A job whose newest checkpoint has a flipped bit names it and goes on from the one before."""
    _stopped_run(lab, place)
    newest, before = list_checkpoints(place / "run" / "checkpoints")[:2]
    _flip_a_bit(newest / "rows_1.safetensors")
    with Job(place, [*lab.settings(ranks=2), "resume=true"], ranks=2) as job:
        ended = job.end()
        said = job.said(0)
        named = f"checkpoint refused: rank 1: {newest}/rows_1.safetensors: its checksum differs" in said
        wrong = "" if named else f"not named: {said[-300:]}"
        wrong = wrong or ("" if f"resumed {before}" in said else f"did not resume {before.name}: {said[-300:]}")
        return Found(ended, wrong or ends_well(job, ended, lab.reference("fused", 2).run))


def _none_left(lab: Lab, place: Path) -> Found:
    _stopped_run(lab, place)
    for path in list_checkpoints(place / "run" / "checkpoints"):
        _flip_a_bit(path / "manifest.json")
    with Job(place, [*lab.settings(ranks=2), "resume=true"], ranks=2) as job:
        ended = job.end()
        return Found(ended, stops_alike(job, ended, "none of ", "checkpoints is complete", "manifest.json"))


def _stopped_run(lab: Lab, place: Path) -> None:
    """Copy the undisturbed run without its model.pt: as if it had been stopped just before its end."""
    source = lab.reference("fused", 2).run
    shutil.copytree(source, place / "run", dirs_exist_ok=True)
    for name in (*MODEL_FILES, *BEST_FILES, STATUS):
        (place / "run" / name).unlink()


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
