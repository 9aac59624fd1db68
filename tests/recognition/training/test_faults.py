"""What happens on one rank is answered on all of them alike: by going on, by saving, or by one and the same line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recognition.distributed.checkpoint import list_checkpoints
from recognition.distributed.world import World
from recognition.errors import ArcShardError, DataError
from recognition.verification.validators import Report
from tests.helpers.runs import make_trainer, snapshot
from tests.helpers.worlds import run_world

BASE = ["train.batch_size=6", "data.num_image=75", "checkpoint.keep=99"]


def verdict(world: World, folder: str, overrides: list[str], disturb: Any) -> tuple[str, int]:
    """Train after `disturb(trainer)` and return (what ended the run, the step it reached)."""
    trainer = make_trainer(world, folder, [*BASE, *overrides])
    disturb(trainer)
    try:
        trainer.fit()
    except (ArcShardError, ValueError) as err:
        return f"{type(err).__name__}: {err}", trainer.state.step
    return "", trainer.state.step


def failing_loader(error: Exception, rank: int, at: int) -> Any:
    def disturb(trainer: Any) -> None:
        epoch = trainer.loader.epoch

        def batches(number: int, start: int) -> Iterator[Any]:
            for count, batch in enumerate(epoch(number, start)):
                if count == at and trainer.world.rank == rank:
                    raise error
                yield batch

        trainer.loader.epoch = batches

    return disturb


def after_step(step: int, rank: int, action: Any) -> Any:
    def disturb(trainer: Any) -> None:
        take = trainer.train_step

        def take_and_act(*args: Any) -> Any:
            result = take(*args)
            if trainer.state.step == step and trainer.world.rank == rank:
                action(trainer)
            return result

        trainer.train_step = take_and_act

    return disturb


def plant_nan(trainer: Any) -> None:
    trainer.parts.head.state_rows()["centers"][1, 3] = float("nan")


class LookAtEverything:
    def run(self, embed: Any) -> Report:
        size = float(np.abs(embed(np.full((3, 32, 32, 3), 99, np.uint8))).mean())
        return Report(score=size, values={"size": size}, line=f"size {size:.4f}")


def watched_and_not(world: World, folder: str) -> dict[str, Any]:
    """Train with and without validations and checkpoints at every step, BatchNorm's statistics each rank's own."""
    plain = make_trainer(world, f"{folder}/plain", BASE)
    plain.fit()
    watched = make_trainer(
        world, f"{folder}/watched", [*BASE, "checkpoint.every_steps=1", "train.num_epoch=2"], {"a": LookAtEverything()}
    )
    object.__setattr__(watched.config.validation, "every_steps", 1)  # a config without .bin files has no use for it
    watched.fit()
    return {"plain": snapshot(plain), "watched": snapshot(watched), "validated": watched.state.validated_step}


def everything(world: World, folder: str) -> dict[str, Any]:
    """All cases of a world of two: starting the processes costs more than they do."""
    often = ["checkpoint.every_steps=2", "train.max_refused_steps=3", "log.every_steps=1"]
    bad = DataError("faces.rec: record 7: cannot be decoded")
    cases = {
        "bad record": ([], failing_loader(bad, 1, 3)),
        "mistake": ([], failing_loader(ValueError("no\nsecond line"), 0, 2)),
        "asked to save": ([], after_step(2, 1, lambda _: signal.raise_signal(signal.SIGUSR1))),
        "broken center": (often, after_step(4, 1, plant_nan)),
    }
    found: dict[str, Any] = {
        name: verdict(world, f"{folder}/{name}", overrides, disturb) for name, (overrides, disturb) in cases.items()
    }
    found["watched"] = watched_and_not(world, folder)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, run_world(2, everything, str(folder), timeout_s=120)


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in list_checkpoints(folder / "checkpoints"))


@pytest.mark.slow
def test_a_batch_that_fails_on_one_rank_ends_all_with_the_same_line(run: tuple[Path, list[dict[str, Any]]]) -> None:
    message = "DataError: rank 1: faces.rec: record 7: cannot be decoded"
    assert [rank["bad record"] for rank in run[1]] == [(message, 3)] * 2


@pytest.mark.slow
def test_a_mistake_of_ours_keeps_its_traceback_and_ends_the_others_too(run: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (rank["mistake"] for rank in run[1])
    assert first == ("ValueError: no\nsecond line", 2)
    assert second == ("DataError: rank 0: ValueError: no", 2)


@pytest.mark.slow
def test_a_request_heard_by_one_rank_is_saved_by_all_and_training_goes_on(
    run: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, ranks = run
    assert [rank["asked to save"] for rank in ranks] == [("", 12)] * 2
    assert saved_steps(folder / "asked to save") == [2, 6, 12]


@pytest.mark.slow
def test_a_broken_shard_stops_all_ranks_by_name_and_is_never_saved(run: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, ranks = run
    assert ranks[0]["broken center"] == ranks[1]["broken center"]
    message, step = ranks[0]["broken center"]
    assert message.startswith(
        "TrainingError: step 7: 3 steps in a row were refused for a non-finite value (rank 1: the "
    )
    assert "(rank 1: the centers" in message
    assert step == 7
    assert saved_steps(folder / "broken center") == [2], "that of step 4 would have held it"


@pytest.mark.slow
def test_looking_at_a_run_does_not_change_a_bit_of_it(run: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, ranks = run
    for found in (rank["watched"] for rank in ranks):
        assert found["validated"] == 12
        assert all(torch.equal(found["plain"][name], found["watched"][name]) for name in found["plain"])
    own = [rank["watched"]["plain"]["backbone.bn1.running_mean"] for rank in ranks]
    assert not torch.equal(*own), "each rank has statistics of its own"
    model = torch.load(folder / "plain" / "model.pt", weights_only=True)
    assert torch.equal(model["bn1.running_mean"], (own[0].double() + own[1].double()).div(2).float())
    assert len(saved_steps(folder / "watched")) == 12
