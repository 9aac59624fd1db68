"""Every input that ever was a finding, and every valid file the fuzzing starts from, through its reader again."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from recognition.errors import DataError
from tests.fuzz import run, targets
from tests.fuzz.targets import TARGETS, Target, attempt

FOLDER = Path(__file__).parent / "regressions"
FOUND = sorted(FOLDER.iterdir())


def _target(path: Path) -> str:
    return path.name.rpartition("-")[0]


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_a_found_input_is_refused_or_read(path: Path, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    attempt(_target(path), path.read_bytes(), tmp_path)  # the first time imports count
    started = time.process_time()
    attempt(_target(path), path.read_bytes(), tmp_path)
    assert time.process_time() - started < run.SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < run.MEMORY_BYTES


@pytest.mark.parametrize("name", TARGETS)
def test_the_valid_files_are_read_or_refused_in_words(name: str, tmp_path: Path) -> None:
    seeds = TARGETS[name].seeds()
    assert seeds
    were_read = [attempt(name, seed, tmp_path) for seed in seeds]
    assert any(were_read), "fuzzing would start from nothing valid"


def _planted(data: bytes, folder: Path) -> None:
    if data == b"ours":
        raise DataError("planted: found it; expected it")
    if data == b"lines":
        raise DataError("x" * 3000 + "\n")
    if data == b"theirs":
        raise KeyError(data)
    if data == b"slow":
        started = time.process_time()
        while time.process_time() - started < 1.1:
            pass


def test_what_is_no_error_of_ours_is_found_once_with_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.TARGETS, "planted", Target(_planted, lambda: [b""], 1))
    fuzzer = run._Fuzzer("planted", 10**9, tmp_path, tmp_path)
    for data in (b"ours", b"fine", b"theirs", b"theirs", b"slow", b"lines"):
        fuzzer(data)
    found = fuzzer._findings
    assert found.inputs == 6
    assert found.accepted == 2, "the fine one and the slow one"
    assert {Path(path).read_bytes() for path in found.found.values()} == {b"theirs", b"slow"}
    assert sorted(place.split()[0] for place in found.found) == ["KeyError", "slow"]
