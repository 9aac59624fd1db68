"""A run is the same for every number of ranks, continues where it stopped, and refuses a bad step as a whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recognition.distributed.world import World
from recognition.training.refusals import RefusalWatch, TrainingError
from recognition.training.state import TrainState
from recognition.training.trainer import Trainer
from recognition.verification.validators import Report
from tests.helpers.runs import fit, losses, make_trainer, snapshot
from tests.helpers.worlds import run_world

ALONE = World(0, 1, 0, torch.device("cpu"))


def _batch(size: int) -> str:
    return f"train.batch_size={12 // size}"


@pytest.mark.slow
def test_every_number_of_ranks_trains_the_same_model_with_sync_bn(tmp_path: Path) -> None:
    curves, models = {}, {}
    for size in (1, 2, 3):
        folder = str(tmp_path / str(size))
        results = run_world(size, fit, folder, [_batch(size), "backbone.sync_bn=true"], timeout_s=120)
        curves[size] = np.array(results[0][0])
        models[size] = torch.load(Path(folder) / "model.pt", weights_only=True)
    for size in (2, 3):
        np.testing.assert_allclose(curves[size][:5], curves[1][:5], rtol=1e-5)
        np.testing.assert_allclose(curves[size][:20], curves[1][:20], rtol=1e-3)
        for key, value in models[1].items():
            torch.testing.assert_close(models[size][key].double(), value.double(), rtol=2e-2, atol=2e-3)
    assert curves[1][-3:].mean() < 0.5 * curves[1][:3].mean(), "nothing was learned"


@pytest.mark.parametrize("update", ["fused", "autograd"])
def test_accumulation_equals_the_larger_batch(update: str, tmp_path: Path) -> None:
    common = [f"head.update={update}", "data.flip=0", "backbone.sync_bn=false"]
    # BatchNorm sees each micro-batch apart, so its layers are frozen in evaluation mode for this comparison.
    curves = []
    for name, size, micro_batches in (("one", 12, 1), ("two", 6, 2)):
        extra = [f"train.batch_size={size}", f"train.gradient_accumulation={micro_batches}"]
        trainer = make_trainer(ALONE, str(tmp_path / name), common + extra)
        trainer.parts.backbone.train = lambda mode=True, trainer=trainer: trainer.parts.backbone  # type: ignore
        torch.nn.Module.train(trainer.parts.backbone, False)
        trainer.fit()
        curves.append(losses(str(tmp_path / name)))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


@pytest.mark.parametrize("update", ["fused", "deferred", "autograd"])
def test_every_update_mode_gives_the_same_curve(update: str, tmp_path: Path) -> None:
    reference, _ = fit(ALONE, str(tmp_path / "fused"), ["train.batch_size=12", "train.num_epoch=1"])
    curve, _ = fit(ALONE, str(tmp_path / update), ["train.batch_size=12", "train.num_epoch=1", f"head.update={update}"])
    np.testing.assert_allclose(curve, reference, rtol=1e-4)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_overlap_changes_no_bit(micro_batches: int, tmp_path: Path) -> None:
    runs = []
    for overlap in ("false", "true"):
        extra = ["train.batch_size=6", f"train.gradient_accumulation={micro_batches}", "train.num_epoch=1"]
        trainer = make_trainer(ALONE, str(tmp_path / overlap), [*extra, f"head.overlap={overlap}"])
        trainer.fit()
        runs.append((losses(str(tmp_path / overlap)), snapshot(trainer)))
    (curve, state), (other_curve, other_state) = runs
    np.testing.assert_array_equal(curve, other_curve)
    assert state.keys() == other_state.keys()
    for name, value in state.items():
        assert torch.equal(value, other_state[name]), name


def _poisoned_step(world: World, folder: str, rank: int, place: str, precision: str) -> tuple[dict, dict, float]:
    """Take one good step, then one with a NaN planted on `rank`; return the state before and after it."""
    trainer = make_trainer(world, folder, [_batch(world.size), f"train.precision={precision}"])
    batches = trainer.loader.epoch(0)
    trainer.parts.backbone.train()
    trainer.train_step([next(batches)], 0)
    if world.rank == rank and place == "center":
        trainer.parts.head.state_rows()["centers"][0, 0] = float("nan")
    if world.rank == rank and place == "embedding":
        trainer.parts.backbone.features.register_forward_hook(lambda module, args, out: out * float("nan"))
    before = snapshot(trainer)
    result = trainer.train_step([next(batches)], 0)
    return before, snapshot(trainer), float(result.refused)


POISONS = [(rank, place) for rank in (0, 1) for place in ("center", "embedding")]


def _every_poisoned_step(world: World, folder: str) -> list[tuple[dict, dict, float]]:
    return [_poisoned_step(world, f"{folder}/{rank}-{place}", rank, place, "bf16") for rank, place in POISONS]


@pytest.mark.slow
def test_a_refused_step_leaves_everything_bit_identical_on_all_ranks(tmp_path: Path) -> None:
    for results in run_world(2, _every_poisoned_step, str(tmp_path)):
        for poison, (before, after, refused) in zip(POISONS, results, strict=True):
            assert refused == 1.0, poison
            for name, value in before.items():
                assert torch.equal(value.nan_to_num(7.0), after[name].nan_to_num(7.0)), (poison, name)


def test_a_run_of_refused_steps_stops_and_says_why(tmp_path: Path) -> None:
    trainer = make_trainer(ALONE, str(tmp_path), [_batch(1), "train.max_refused_steps=3"])
    trainer.parts.head.state_rows()["centers"][0, 0] = float("nan")
    with pytest.raises(TrainingError, match="step 3: 3 steps in a row were refused for a non-finite value"):
        trainer.fit()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [None] * 3, "JSON has no NaN"


def test_refused_steps_are_counted_at_every_step_and_not_when_there_is_a_report(tmp_path: Path) -> None:
    overrides = [_batch(1), "train.max_refused_steps=3", "log.every_steps=1000"]
    trainer = make_trainer(ALONE, str(tmp_path), overrides)
    trainer.parts.head.state_rows()["centers"][0, 0] = float("nan")
    with pytest.raises(TrainingError, match="step 3: 3 steps in a row were refused"):
        trainer.fit()


def test_an_accepted_step_ends_the_row_of_refused_ones() -> None:
    watch = RefusalWatch(2)
    for refused, in_a_row in ((1, 3), (0, 0), (1, 1), (1, 2)):
        watch.add(torch.tensor(float(refused)))
        assert watch.look() == in_a_row


def test_fp16_lowers_its_scale_after_an_overflow(tmp_path: Path) -> None:
    trainer = make_trainer(ALONE, str(tmp_path), [_batch(1), "train.precision=fp16"])
    trainer.stepper.scaler.scale.fill_(2.0**60)
    batches = trainer.loader.epoch(0)
    before = snapshot(trainer)
    assert float(trainer.train_step([next(batches)], 0).refused) == 1.0
    assert trainer.stepper.scaler.scale.item() == 2.0**59
    after = snapshot(trainer)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith(("backbone", "optimizer")))


def test_the_run_is_the_plan_s(tmp_path: Path) -> None:
    overrides = ["train.batch_size=10", "head.update=autograd", "train.gradient_accumulation=3"]
    trainer = make_trainer(ALONE, str(tmp_path), overrides)
    plan = trainer.plan
    assert (plan.global_batch, plan.steps_per_epoch, plan.total_steps) == (30, 132 // 30, 2 * (132 // 30))
    trainer.fit()
    assert (trainer.state.step, trainer.state.images_seen) == (plan.total_steps, plan.total_steps * plan.global_batch)
    other = dataclasses.replace(plan, steps_per_epoch=plan.steps_per_epoch + 1)
    with pytest.raises(AssertionError, match="the plan is of other data"):
        Trainer(other, trainer.parts, trainer.loader, world=ALONE, folder=tmp_path, validators={})


def test_validators_run_before_the_first_step_and_at_the_end(tmp_path: Path) -> None:
    calls: list[Any] = []

    class Counting:
        def run(self, embed: Any) -> Report:
            calls.append(embed(np.zeros((3, 32, 32, 3), np.uint8)).shape)
            return Report(score=-3.0 / len(calls), values={"spread": 2.5}, line="spread 2.5")

    trainer = make_trainer(ALONE, str(tmp_path), [_batch(1), "train.num_epoch=1"], {"lfw": Counting()})
    trainer.fit()
    assert calls == [(3, 16), (3, 16)]
    assert (trainer.state.best, trainer.state.accuracy) == ({"lfw": -1.5}, -1.5), "the score, whatever it measures"
    assert trainer.parts.backbone.training


def test_the_rate_drops_when_the_score_no_longer_rises(tmp_path: Path) -> None:
    scores = iter([9.0, 0.5, 0.6, 0.6, 0.6, 0.7, 0.7])

    class Falling:
        def run(self, embed: Any) -> Report:
            return Report(score=next(scores), values={}, line="")

    overrides = ["optim.schedule=plateau", "optim.patience=1", "optim.drop_factor=0.5", "optim.lr=0.02"]
    overrides += ["validation.val_targets=[x]", "validation.every_steps=2", "data.num_image=72"]
    trainer = make_trainer(ALONE, str(tmp_path), [_batch(1), *overrides], {"x": Falling()})
    assert trainer.plan.total_steps == 12
    trainer.fit()
    rates = [row["lr"] for row in map(json.loads, (tmp_path / "metrics.jsonl").open()) if row["kind"] == "train"]
    # Validated before step 1, which does not count, and after 2, 4, ... 12; 6 and 8 are no better than 4.
    assert rates == pytest.approx([0.02] * 8 + [0.01] * 4)
    state = trainer.state
    assert (state.plateau_best, state.plateau_waited, state.plateau_drops) == (0.7, 1, 1)
    assert TrainState.of(dataclasses.asdict(state), "here") == state
