"""A run that was stopped or killed ends with the bits of the run that was not, and its records are the same."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recognition.distributed.world import World
from recognition.errors import CheckpointError, ConfigError
from recognition.training.interrupts import Stopped
from recognition.training.trainer import Trainer
from tests.helpers.runs import losses, make_trainer, snapshot
from tests.helpers.worlds import run_world, world_sizes

BATCH = 12
ACCUMULATED = ["train.gradient_accumulation=2", "head.margin={name: curricularface}"]
CASES: dict[str, list[str]] = {
    "plain": [],
    "sync_bn": ["backbone.sync_bn=true"],
    "deferred": ["head.update=deferred", "train.precision=fp16"],
    "adaface": ["head.margin={name: adaface, alpha: 0.5}"],
    "adamw": ["optim.optimizer=adamw", "optim.lr=0.001", "head.momentum_format=int8", "head.sample_rate=0.7"],
    "adamw, autograd": ["head.update=autograd", "optim.optimizer=adamw", "optim.lr=0.001"],
    "a learned number, autograd": ["head.update=autograd", "head.margin={name: sphereface2}"],
    "accumulated": ACCUMULATED,
    "small formats": ["head.centers_format=bf16", "head.momentum_format=int8", "train.precision=bf16"],
    "vit": [
        "backbone.network=vit_xs",
        "data.image_size=28",
        "backbone.drop_path=0.3",
        "backbone.mask_ratio=0.3",
        "backbone.activation_checkpointing=true",
        "train.precision=bf16",
        "optim.optimizer=adamw",
        "optim.lr=0.001",
        "optim.layer_decay=0.8",
        "head.sample_rate=0.7",
    ],
    "coasting": ["head.sample_rate=0.7", "head.unsampled=coast", "head.momentum_format=int8"],
    "overlapping": ["head.overlap=true", "train.precision=bf16"],
    "sampled": ["head.sample_rate=0.7", "head.sub_centers=2", "backbone.dropout=0.3"],
}
MID_EPOCH, CRASH = 3, 9
"""Of 12 steps, 6 an epoch; the crash comes after the checkpoint of step 8."""
ALONE = World(0, 1, 0, torch.device("cpu"))


class Crash(Exception):
    """All ranks die at once."""


def overrides_of(case: str, size: int) -> list[str]:
    micro = 2 if CASES[case] is ACCUMULATED else 1
    return [
        f"train.batch_size={BATCH // size // micro}",
        "data.num_image=75",
        "checkpoint.every_steps=4",
        "log.every_steps=5",
        *CASES[case],
    ]


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


def cases_of(size: int) -> list[str]:
    """Return the cases of a world; what three ranks add is the order of sums."""
    return list(CASES) if size < 3 else ["plain", "sync_bn", "deferred"]


def every_case(world: World, folder: str) -> dict[str, bool]:
    """Return for each case whether this rank's state is the same in every bit."""
    same = {}
    for case in cases_of(world.size):
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


@pytest.mark.slow
@pytest.mark.parametrize("size", world_sizes(1, 2, long=3))
def test_a_disturbed_run_ends_with_the_bits_of_an_undisturbed_one(size: int, tmp_path: Path) -> None:
    for rank, same in enumerate(run_world(size, every_case, str(tmp_path), timeout_s=240)):
        assert same == dict.fromkeys(cases_of(size), True), f"rank {rank} of {size}"
    for case in cases_of(size):
        whole, parted = tmp_path / case / "whole", tmp_path / case / "parted"
        assert records(parted) == records(whole), case
        assert [row["step"] for row in records(whole)] == [5, 10, 12]
        assert np.isfinite([row["loss"] for row in records(whole)]).all()
        models = [torch.load(folder / "model.pt", weights_only=True) for folder in (whole, parted)]
        assert all(torch.equal(models[0][key], models[1][key]) for key in models[0]), case


def stop_at(world: World, folder: str, overrides: list[str], step: int | None) -> list[int]:
    """Train on from where the run stands until it is stopped after `step`; return the images this rank was given."""
    trainer = make_trainer(world, folder, overrides)
    if step is not None:
        interrupt(trainer, step, lambda: signal.raise_signal(signal.SIGTERM))
    images: list[int] = []
    take = trainer.train_step

    def take_note(batches: Any, *where: Any) -> Any:
        images.extend(index for batch in batches for index in batch.indices.tolist())
        return take(batches, *where)

    trainer.train_step = take_note  # type: ignore[method-assign]
    with contextlib.suppress(Stopped):
        trainer.fit()
    return images


def whole_and_first_part(world: World, folder: str, overrides: list[str]) -> list[list[int]]:
    return [
        stop_at(world, f"{folder}/whole", overrides, None),
        stop_at(world, f"{folder}/parted", overrides, 3),
    ]


@pytest.mark.slow
def test_a_run_goes_on_in_mid_epoch_on_any_number_of_ranks_and_sees_each_image_once(tmp_path: Path) -> None:
    """2 -> 3 -> 1 -> 2 ranks within one epoch of 13 steps, which leaves 3 of its 159 images out."""
    overrides = [
        "train.batch_size=6",
        "data.num_image=159",
        "train.num_epoch=1",
        "backbone.sync_bn=true",
    ]
    parted, resumed = str(tmp_path / "parted"), [*overrides, "resume=true"]
    ranks = run_world(2, whole_and_first_part, str(tmp_path), overrides)
    whole = [image for images, _ in ranks for image in images]
    seen = [image for _, images in ranks for image in images]
    for size, stop in ((3, 6), (1, 9), (2, None)):
        seen += [image for images in run_world(size, stop_at, parted, resumed, stop) for image in images]
    assert len(set(seen)) == len(seen) == 156
    assert sorted(seen) == sorted(whole)
    np.testing.assert_allclose(losses(parted), losses(str(tmp_path / "whole")), rtol=1e-5)
    assert len(losses(parted)) == 13


def test_a_finished_run_is_trained_longer_at_the_rates_of_the_longer_schedule(tmp_path: Path) -> None:
    common = ["train.batch_size=12", "log.every_steps=1"]
    make_trainer(ALONE, str(tmp_path), [*common, "train.num_epoch=1"]).fit()
    trainer = make_trainer(ALONE, str(tmp_path), [*common, "train.num_epoch=3", "resume=true"])
    trainer.fit()
    rates = [row["lr"] for row in records(tmp_path)]
    assert len(rates) == 33
    assert rates[11:] == [0.02 * (1 - step / 33) for step in range(11, 33)]
    with pytest.raises(
        ConfigError, match=r"stands at step 33; expected at most the 22 steps of train.num_epoch=2; raise"
    ):
        make_trainer(ALONE, str(tmp_path), [*common, "train.num_epoch=2", "resume=true"])


def test_a_finished_run_that_is_resumed_ends_at_once_as_it_was(tmp_path: Path) -> None:
    first = undisturbed(ALONE, str(tmp_path), ["train.batch_size=12"])
    known = (tmp_path / "metrics.jsonl").read_text()
    again = undisturbed(ALONE, str(tmp_path), ["train.batch_size=12", "resume=true"])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert (tmp_path / "metrics.jsonl").read_text() == known


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.num_classes=12", "holds 11 classes; the data set has 12; resume with the data set of the run"),
        ("data.num_image=140", "num_images was 132 and is 140; expected no change"),
        (
            "seed=1",
            "seed was 2048 and is 1; expected no change, since images of the epoch would be seen twice or never",
        ),
        ("data.shuffle_block=4", "shuffle_block was 1 and is 4"),
        ("backbone.embedding_size=24", "expected torch.float32 [24"),
        (
            "optim.optimizer=adamw",
            "momentum_buffer' and 56 more tensors that this run has no place for; resume with the",
        ),
        ("head.optimizer=adamw", "the centers were moved by sgd; expected adamw, which keeps other moments of them"),
        ("head.momentum_format=bf16", "'momentum' is torch.float32 [11, 16]; expected torch.bfloat16 [11, 16]"),
        ("head.momentum_format=int8", "'momentum' is torch.float32 [11, 16]; expected torch.int8 [11, 16]"),
        ("head.sub_centers=2", "'centers' has 11 rows for 11 classes; expected 22"),
    ],
)
def test_what_would_continue_another_run_is_refused(override: str, message: str, tmp_path: Path) -> None:
    stop_at(ALONE, str(tmp_path), ["train.batch_size=12"], 2)
    with pytest.raises(CheckpointError) as refused:
        make_trainer(ALONE, str(tmp_path), ["train.batch_size=12", override, "resume=true"])
    assert str(refused.value).startswith(f"{tmp_path}/checkpoints/step_00000002")
    assert message in str(refused.value)


def test_an_interrupt_before_the_first_step_loses_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(ALONE, str(tmp_path), ["train.batch_size=12"])
    trainer.interrupts.stop = signal.SIGINT
    with pytest.raises(Stopped, match="stopped by SIGINT at step 0; the checkpoint of step 0 is the newest") as stopped:
        trainer.fit()
    assert stopped.value.status == 130
    assert make_trainer(ALONE, str(tmp_path), ["train.batch_size=12", "resume=true"]).state.step == 0


def test_curves_in_tensorboard_show_each_step_once(tmp_path: Path) -> None:
    common = ["train.batch_size=12", "log.tensorboard=true", "log.every_steps=1", "checkpoint.every_steps=4"]
    trainer = make_trainer(ALONE, str(tmp_path), common)

    def crash() -> None:
        trainer.saver.finish()
        raise Crash

    interrupt(trainer, 7, crash)
    with pytest.raises(Crash):
        trainer.fit()
    make_trainer(ALONE, str(tmp_path), [*common, "resume=true"]).fit()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 23))
