"""No write under training ends it: on a disk that takes nothing for a while it goes on, and nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recognition.errors import DataError
from recognition.verification.validators import Report
from tests.helpers.failing_disk import FailingDisk
from tests.helpers.runs import make_trainer, with_overrides
from tests.helpers.snapshots import ALONE

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds a file's path in /proc")

ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT]
STEPS = 8
RUN = [
    "train.batch_size=12",
    "data.num_image=48",
    "train.num_epoch=2",
    "log.tensorboard=true",
    "checkpoint.every_steps=2",
    "checkpoint.max_failures=99",
]


class Rising:
    """A validator whose score is better each time."""

    def __init__(self) -> None:
        self._scores = itertools.count(1)

    def run(self, embed: Any) -> Report:
        score = next(self._scores) / 100
        return Report(score=score, values={"accuracy": score}, line=f"{score}")


def trainer_of(folder: Path, *more: str) -> Any:
    trainer = make_trainer(ALONE, str(folder), with_overrides(RUN, *more), {"a": Rising()})
    object.__setattr__(trainer.config.validation, "every_steps", 3)  # a config without .bin files has no use for it
    return trainer


def rows_of(folder: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["kind"]) for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]


ROWS = [(0, "a"), (1, "train"), (2, "train"), (3, "train"), (3, "a"), (4, "train"), (5, "train"), (6, "train")]
ROWS += [(6, "a"), (7, "train"), (8, "train"), (8, "a")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("undisturbed")
    trainer_of(folder).fit()
    assert rows_of(folder) == ROWS
    weights: dict[str, torch.Tensor] = torch.load(folder / "model.pt", weights_only=True)
    return weights


@pytest.mark.parametrize("error", [ERRORS[0], *(pytest.param(error, marks=pytest.mark.slow) for error in ERRORS[1:])])
def test_a_disk_that_takes_nothing_for_a_while_loses_nothing(
    error: int, tmp_path: Path, undisturbed: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(tmp_path)
    disk = FailingDisk(tmp_path, error)
    take = trainer.train_step

    def take_and_fill(*args: Any) -> Any:
        disk.fails = 1 <= trainer.state.step < 6
        return take(*args)

    trainer.train_step = take_and_fill
    with disk.mounted():
        trainer.fit()
    assert disk.num_failed > 10
    assert rows_of(tmp_path) == ROWS
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, STEPS + 1))
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(weights[name], tensor) for name, tensor in undisturbed.items())
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for name in ("metrics.jsonl: cannot be written", "tfevents", "no checkpoint", "no weights"):
        assert any(name in line for line in said), name
    assert sum("metrics.jsonl: cannot be written" in line for line in said) == 1, "warned once"
    assert not list(tmp_path.rglob("*.part"))


def test_a_disk_that_stays_full_ends_a_run_at_its_end_alone(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    disk = FailingDisk(tmp_path, errno.ENOSPC)
    disk.fails = True
    with disk.mounted(), pytest.raises(DataError, match=r"model\.safetensors: cannot be written"):
        trainer.fit()
    assert trainer.state.step == STEPS


@pytest.mark.long
@pytest.mark.parametrize("error", ERRORS)
def test_no_single_write_ends_a_run(error: int, tmp_path: Path) -> None:
    """Each change of the disk fails once, in a run of its own: only the last weights, which are the product, end it."""
    short = "train.num_epoch=1"
    trainer_of(tmp_path, short).fit()
    rows = rows_of(tmp_path)
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        trainer = trainer_of(folder, short)
        disk = FailingDisk(folder, error)
        disk.fails_at = number
        # DataError: of the last weights; what follows says whether it came earlier.
        with disk.mounted(), contextlib.suppress(DataError):
            trainer.fit()
        assert trainer.state.step == STEPS // 2, f"change {number}"
        assert rows_of(folder) == rows, f"change {number}"
        shutil.rmtree(folder)
        if not disk.num_failed:
            break
    assert number > 50
