"""A run that was stopped or killed ends with the bits of the run that was not, and its records are the same."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recognition.distributed.world import World
from recognition.training.interrupts import Stopped
from recognition.training.trainer import Trainer
from tests.dist_harness import run_world
from tests.recognition.training.runs import make_trainer, snapshot

BATCH = 12
ACCUMULATED = ["head.update=autograd", "train.gradient_accumulation=2"]
CASES: dict[str, list[str]] = {
    "plain": [],
    "sync_bn": ["backbone.sync_bn=true"],
    "deferred": ["head.update=deferred", "train.precision=fp16"],
    "adamw": ["head.update=autograd", "optim.optimizer=adamw", "optim.lr=0.001"],
    "accumulated": ACCUMULATED,
    "small formats": ["head.centers_format=bf16", "head.momentum_format=int8", "train.precision=bf16"],
    "sampled": ["head.sample_rate=0.6", "head.sub_centers=2", "backbone.dropout=0.3"],
}
MID_EPOCH, CRASH = 3, 9
"""Of 12 steps, 6 an epoch; the crash comes after the checkpoint of step 8."""


class Crash(Exception):
    """All ranks die at once."""


def overrides_of(case: str, size: int) -> list[str]:
    micro = 2 if CASES[case] is ACCUMULATED else 1
    return [f"train.batch_size={BATCH // size // micro}", "data.num_image=75", "checkpoint.every_steps=4",
            "log.every_steps=5", *CASES[case]]  # fmt: skip


def interrupt(trainer: Trainer, step: int, action: Any) -> None:
    """Call `action` once `step` steps are taken."""
    take = trainer.train_step

    def take_and_act(*args: Any) -> Any:
        result = take(*args)
        if trainer.state.step == step:
            action()
        return result

    trainer.train_step = take_and_act  # type: ignore[method-assign]


def undisturbed(world: World, folder: str, overrides: list[str]) -> dict[str, torch.Tensor]:
    trainer = make_trainer(world, folder, overrides)
    trainer.fit()
    return snapshot(trainer)


def disturbed(world: World, folder: str, overrides: list[str]) -> dict[str, torch.Tensor]:
    """Stop by a signal that the last rank alone hears, go on, crash between two checkpoints, and go on to the end."""
    trainer = make_trainer(world, folder, overrides)
    if world.rank == world.size - 1:
        interrupt(trainer, MID_EPOCH, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped) as stopped:
        trainer.fit()
    assert (stopped.value.status, trainer.state.step) == (143, MID_EPOCH)

    trainer = make_trainer(world, folder, [*overrides, "resume=true"])
    assert trainer.state.step == MID_EPOCH

    def crash() -> None:
        trainer.saver.finish()
        raise Crash

    interrupt(trainer, CRASH, crash)
    with pytest.raises(Crash):
        trainer.fit()
    trainer = make_trainer(world, folder, [*overrides, "resume=true"])
    assert trainer.state.step == 8
    trainer.fit()
    return snapshot(trainer)


def every_case(world: World, folder: str) -> dict[str, bool]:
    """Return for each case whether this rank's state is the same in every bit."""
    same = {}
    for case in CASES:
        overrides = overrides_of(case, world.size)
        expected = undisturbed(world, f"{folder}/{case}/whole", overrides)
        found = disturbed(world, f"{folder}/{case}/parted", overrides)
        same[case] = found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)
    return same


def records(folder: Path) -> list[dict[str, Any]]:
    """Return what a run recorded, but for what depends on the clock and on memory."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = {"img_per_s", "step_s", "data_wait", "memory_bytes"}
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_disturbed_run_ends_with_the_bits_of_an_undisturbed_one(size: int, tmp_path: Path) -> None:
    for rank, same in enumerate(run_world(size, every_case, str(tmp_path), timeout_s=240)):
        assert same == dict.fromkeys(CASES, True), f"rank {rank} of {size}"
    for case in CASES:
        whole, parted = tmp_path / case / "whole", tmp_path / case / "parted"
        assert records(parted) == records(whole), case
        assert [row["step"] for row in records(whole)] == [5, 10, 12]
        assert np.isfinite([row["loss"] for row in records(whole)]).all()
        models = [torch.load(folder / "model.pt", weights_only=True) for folder in (whole, parted)]
        assert all(torch.equal(models[0][key], models[1][key]) for key in models[0]), case
