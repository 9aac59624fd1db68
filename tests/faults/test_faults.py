"""The short form of `make faults`: real jobs that lose a rank, and damage done in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recognition.distributed.checkpoint import list_checkpoints
from tests.faults.cases import fault_cases
from tests.faults.compare import difference, first_unequal
from tests.faults.damage import Shelf, damage_every_way, exchange_every_way
from tests.faults.disk import disk_cases
from tests.faults.kills import SAVE_PLACES, Kill, draw_kills, kill_case
from tests.faults.launch import Ended, Job
from tests.faults.outcome import Case, Found, Outcome, table
from tests.faults.runs import Lab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its processes in Linux's /proc"),
]

RANDOM = Kill(number=0, ranks=2, variant="fused", rank=1, place="step", share=0.5, save=1, step=17)
IN_SAVE = replace(RANDOM, number=1, rank=0, place="rows", save=4)
CHOSEN = ("stopped/continued", "nan/stop", "disk/limit")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def jobs(lab: Lab) -> Iterator[dict[str, Future[Outcome]]]:
    """Start every job of this module, two side by side: most of their time is start-up and waiting."""
    others = {case.key: case for case in [*fault_cases(), *disk_cases()]}
    cases = [kill_case(RANDOM), kill_case(IN_SAVE), *(others[key] for key in CHOSEN)]
    with ThreadPoolExecutor(2) as pool:
        yield {case.key: pool.submit(case.outcome, lab) for case in cases}


@pytest.mark.parametrize("key", ["kill/000", "kill/001", *CHOSEN])
def test_a_disturbed_job_ends_as_it_should(key: str, jobs: dict[str, Future[Outcome]]) -> None:
    outcome = jobs[key].result()
    assert outcome.fault == ""
    assert not outcome.hang
    assert outcome.left_behind == 0


@pytest.fixture
def shelf(lab: Lab, jobs: dict[str, Future[Outcome]], tmp_path: Path) -> Shelf:
    jobs["kill/001"].result()  # its reference is there by then
    return Shelf(lab.reference("fused", 2).run / "checkpoints", tmp_path)


def test_no_damaged_file_of_a_checkpoint_is_accepted(shelf: Shelf) -> None:
    names = [path.name for path in shelf.newest.iterdir()]
    assert len(names) == 6
    for name in names:
        count, wrong = damage_every_way(shelf, name, flips=4)
        assert wrong == ""
        assert count > 100
    assert exchange_every_way(shelf)[1] == ""


def test_the_harness_sees_a_damaged_checkpoint_that_is_accepted(shelf: Shelf) -> None:
    assert shelf.verdict("manifest.json").startswith("ACCEPTED step_")
    assert shelf.verdict_alone().startswith("ACCEPTED step_")


def test_the_harness_sees_a_run_that_is_not_the_same(
    lab: Lab, jobs: dict[str, Future[Outcome]], tmp_path: Path
) -> None:
    jobs["kill/001"].result()
    reference = lab.reference("fused", 2).run
    assert difference(reference, reference) == ""
    lines = (reference / "metrics.jsonl").read_text().splitlines(keepends=True)
    for name, change in {
        "no line for [(5, 'train')]": lambda run: _write(run, [row for row in lines if '"step": 5,' not in row]),
        "metrics.jsonl: step 1 train: ": lambda run: _write(
            run, [row.replace('"loss": ', '"loss": 1') for row in lines]
        ),
        "leftovers ['.step_00000008.part']": lambda run: (run / "checkpoints" / ".step_00000008.part").mkdir(),
        "the last checkpoint is ": lambda run: list_checkpoints(run / "checkpoints")[0].rename(run / "elsewhere"),
        "model.pt: ": _move_a_weight,
    }.items():
        run = tmp_path / "run"
        subprocess.run(["cp", "-r", str(reference), str(run)], check=True)
        change(run)
        assert name in difference(run, reference)
        subprocess.run(["rm", "-r", str(run)], check=True)


def _write(run: Path, lines: list[str]) -> None:
    (run / "metrics.jsonl").write_text("".join(lines))


def _move_a_weight(run: Path) -> None:
    weights = torch.load(run / "model.pt", weights_only=True)
    first = next(iter(weights.values()))
    first.view(-1)[0] = torch.nextafter(first.view(-1)[0], torch.tensor(float("inf")))
    torch.save(weights, run / "model.pt")


def test_tensors_are_compared_bit_for_bit() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert first_unequal({"a": nan}, {"a": nan.clone()}) == ""
    assert "a differs" in first_unequal({"a": zero}, {"a": -zero})
    assert "expected torch.float64 [1]" in first_unequal({"a": zero}, {"a": zero.double()})
    assert "['a', 'b']" in first_unequal({"a": zero}, {"b": zero})


def test_kills_are_drawn_from_the_seed_and_strike_everywhere() -> None:
    kills = draw_kills({2: 80, 3: 20}, in_save={2: 32, 3: 8}, seed=0)
    assert kills == draw_kills({2: 80, 3: 20}, in_save={2: 32, 3: 8}, seed=0)
    assert kills != draw_kills({2: 80, 3: 20}, in_save={2: 32, 3: 8}, seed=1)
    assert (len(kills), sum(kill.ranks == 3 for kill in kills), sum(kill.in_save for kill in kills)) == (100, 20, 40)
    for ranks in (2, 3):
        own = [kill for kill in kills if kill.ranks == ranks]
        assert {kill.place for kill in own if kill.in_save} == set(SAVE_PLACES)
        assert {kill.rank for kill in own} == set(range(ranks))
    assert all(kill.rank == 0 for kill in kills if kill.place in ("replicated", "manifest", "rename", "latest"))


def test_a_job_that_does_not_end_is_a_hang_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    """The harness itself: a job whose time is up is ended with all its processes."""
    with Job(tmp_path, lab.settings(ranks=1), ranks=1, timeout_s=0.2) as job:
        pid = job.agent
        ended = job.end()
    assert ended.status is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_outlives_its_job_is_named_and_ended(tmp_path: Path) -> None:
    with Job(tmp_path, ["no.such.key=1"], ranks=1) as job:
        environment = {**os.environ, **job.mark}
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], env=environment)
        ended = job.end()
    assert ended.status == 1
    assert [words for words in ended.left_behind if "time.sleep(99)" in words]
    assert child.wait(5) == -signal.SIGKILL


def test_the_table_counts_what_came_of_each_group() -> None:
    good = Outcome("kill", "bit-equal", "", False, 0, 2.0, 1, "").as_dict()
    bad = Outcome("kill", "bit-equal", "differs", True, 2, 4.0, 1, "").as_dict()
    many = Outcome("damage", "refused", "", False, 0, 1.0, 50, "").as_dict()
    assert table([good, bad, many]).splitlines()[2:] == [
        "| kill | 2 | 1 |  |  | 1 | 1 | 2 | 3.0 s |",
        "| damage | 50 |  | 50 |  | 0 | 0 | 0 | 1.0 s |",
        "| **all** | 52 | 1 | 50 |  | 1 | 1 | 2 | 2.0 s |",
    ]


def test_a_case_that_leaves_something_behind_is_wrong_whatever_else_it_found(lab: Lab) -> None:
    hang = Case("a", "g", "ended", lambda *_: Found(Ended(None, 1.0, ()), "")).outcome(lab)
    left = Case("b", "g", "ended", lambda *_: Found(Ended(0, 1.0, ("python x",)), "")).outcome(lab)
    assert "did not end within its timeout" in hang.fault
    assert left.fault == "processes left: python x"
