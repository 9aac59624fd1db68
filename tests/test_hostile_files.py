"""Every reader of docs/safety.md against files made to harm it, and against what is no file at all."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import targets
from tests.fuzz.targets import EXPECTED, TARGETS, attempt
from tests.helpers.hostile import HOSTILE

MORE_S = 2.0
"""Processor time above that of a whole small file."""
MORE_BYTES = 512 << 20
REMADE = {"idx_cache"}
"""What is made anew instead of refused."""
CASES = [(target, name) for target, files in HOSTILE.items() for name in files]
WITHOUT_FILES = {"rec_frames", "images", "pnm", "model_metadata", "override"}
"""Readers that get bytes: their callers open the file."""


def _apart(work: Callable[[], object]) -> tuple[object, float, int]:
    """Run `work` in a fork of this process; return what came of it, its processor time and how much memory it took."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        found: object = "died"
        try:
            signal.alarm(60)
            before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            try:
                found = work()
            except EXPECTED as err:
                found = f"refused: {err}"
            except BaseException as err:
                found = f"{type(err).__name__}: {err}"
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            os.write(sender, json.dumps([found, time.process_time() - started, grown]).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(sender)
    with open(receiver, "rb") as handle:
        content = handle.read()
    os.waitpid(child, 0)
    found, seconds, grown = json.loads(content) if content else ("killed", 0.0, 0)
    return found, seconds, grown


def test_every_reader_has_three_hostile_files() -> None:
    assert {target for target in TARGETS if len(HOSTILE.get(target, ())) < 3} == set()


@pytest.mark.slow
@pytest.mark.parametrize(("target", "name"), CASES, ids=[f"{target}: {name}" for target, name in CASES])
def test_a_hostile_file_is_refused_in_one_line_at_the_cost_of_a_small_one(
    target: str, name: str, tmp_path: Path
) -> None:
    content, small = HOSTILE[target][name](), TARGETS[target].seeds()[0]
    TARGETS[target].read(small, tmp_path)  # imports are not the file's doing
    _, seconds, grown = _apart(lambda: attempt(target, small, tmp_path))
    reads = TARGETS[target].read
    found, hostile_seconds, hostile_grown = _apart(lambda: reads(content, tmp_path))
    assert str(found).startswith("refused: ") or (target in REMADE and found is None), str(found)[:300]
    assert str(found).isprintable()
    assert hostile_seconds - seconds < MORE_S
    assert hostile_grown - grown < MORE_BYTES


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes among the files")
@pytest.mark.parametrize("kind", ["pipe", "endless device", "folder"])
@pytest.mark.parametrize("target", sorted(TARGETS.keys() - WITHOUT_FILES))
def test_what_is_no_file_is_refused_at_once(
    target: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a reader's files in turn is a pipe without a writer, a device without an end, or a folder."""
    write = targets._write
    seed = TARGETS[target].seeds()[0]
    written: list[str] = []

    def count(folder: Path, name: str, content: bytes, *, unless_empty: bool = False) -> Path:
        written.append(name)
        return write(folder, name, content, unless_empty=unless_empty)

    monkeypatch.setattr(targets, "_write", count)
    TARGETS[target].read(seed, tmp_path)
    for number, odd in enumerate(dict.fromkeys(written)):
        place = tmp_path / f"place {number}"
        place.mkdir()

        def put(folder: Path, name: str, content: bytes, *, unless_empty: bool = False, odd: str = odd) -> Path:
            if name != odd:
                return write(folder, name, content, unless_empty=unless_empty)
            path = folder / name
            if kind == "pipe":
                os.mkfifo(path)
            elif kind == "folder":
                path.mkdir()
            else:
                path.symlink_to("/dev/zero")
            return path

        monkeypatch.setattr(targets, "_write", put)
        found, seconds, _ = _apart(lambda: TARGETS[target].read(seed, place))  # noqa: B023  called at once
        assert str(found).startswith("refused: ") or (target in REMADE and found is None), f"{odd}: {str(found)[:300]}"
        assert seconds < MORE_S
