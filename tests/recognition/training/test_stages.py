"""Stages: what holds at each step, runs that go on across a border, and stages that cannot be."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recognition.commands.train import main
from recognition.config.loader import dump_config, load_config
from recognition.distributed.world import World
from recognition.training.interrupts import Stopped
from tests.helpers.runs import SMALL, losses, make_trainer, snapshot, with_overrides
from tests.helpers.worlds import run_world

ALONE = World(0, 1, 0, torch.device("cpu"))
STAGES = (
    "stages=[{until_step: 4, sample_rate: 0.8, scale: 16, margin: {m2: [0.0, 0.3]}},"
    " {until_epoch: 1.5, scale: [16, 8], lr_factor: [0.5, 1.0]}, {lr_factor: 0.25, margin: {m2: 0.4, m3: 0.1}}]"
)
"""Of 12 steps, 6 an epoch: [0, 4), [4, 9), [9, 12)."""
COMMON = ["train.batch_size=12", "data.num_image=75", "backbone.sync_bn=true", STAGES]


def formula(step: int) -> tuple[float, float, float, float, float]:
    """Return (sample rate, scale, m2, m3, learning-rate factor), worked out by hand."""
    if step < 4:
        return 0.8, 16.0, 0.3 * step / 4, 0.0, 1.0
    if step < 9:
        return 1.0, 16 - 8 * (step - 4) / 5, 0.5, 0.0, 0.5 + 0.5 * (step - 4) / 5
    return 1.0, 16.0, 0.4, 0.1, 0.25


def noted(world: World, folder: str, overrides: list[str]) -> list[tuple[float, ...]]:
    """Train, and return what the head and the optimizer had at each step."""
    trainer = make_trainer(world, folder, overrides)
    found: list[tuple[float, ...]] = []
    step = trainer.stepper.step

    def take_note(*args: Any, **settings: Any) -> Any:
        head: Any = trainer.parts.head
        margin = head._loop.margin
        assert head.margin is margin
        base = trainer.plan.schedule.lr_at(settings["step"])
        found.append((head.sampling.rate, head._loop.scale, margin.m2, margin.m3, settings["lr"] / base))
        return step(*args, **settings)

    trainer.stepper.step = take_note  # type: ignore[method-assign]
    trainer.fit()
    return found


def test_every_step_has_the_values_of_the_formula(tmp_path: Path) -> None:
    found = noted(ALONE, str(tmp_path), COMMON)
    np.testing.assert_allclose(found, [formula(step) for step in range(12)], rtol=1e-12)


def train_to(world: World, folder: str, overrides: list[str], stop: int | None) -> dict[str, torch.Tensor]:
    """Train from where the run stands until a signal after step `stop`, or to the end; return the state."""
    trainer = make_trainer(world, folder, [*overrides, "resume=true"])
    take = trainer.train_step

    def take_and_stop(*args: Any) -> Any:
        result = take(*args)
        if trainer.state.step == stop and world.is_main:
            signal.raise_signal(signal.SIGTERM)
        return result

    trainer.train_step = take_and_stop  # type: ignore[method-assign]
    if stop is None:
        trainer.fit()
    else:
        with pytest.raises(Stopped):
            trainer.fit()
    return snapshot(trainer)


def test_a_run_parted_at_and_beside_each_border_has_the_bits_of_a_whole_one(tmp_path: Path) -> None:
    whole = train_to(ALONE, str(tmp_path / "whole"), COMMON, None)
    for stop in (3, 4, 5, 8, 9, 10):
        parted = train_to(ALONE, str(tmp_path / "parted"), COMMON, stop)
    parted = train_to(ALONE, str(tmp_path / "parted"), COMMON, None)
    assert all(torch.equal(parted[name], whole[name]) for name in whole)
    assert losses(str(tmp_path / "parted")) == losses(str(tmp_path / "whole"))


@pytest.mark.slow
def test_a_run_goes_on_across_borders_on_another_number_of_ranks(tmp_path: Path) -> None:
    """1 -> 2 -> 1 ranks; every class is used, since another number of ranks samples other classes."""
    overrides = [setting.replace("sample_rate: 0.8, ", "") for setting in COMMON]
    train_to(ALONE, str(tmp_path / "whole"), overrides, None)
    train_to(ALONE, str(tmp_path / "parted"), overrides, 3)
    run_world(2, train_to, str(tmp_path / "parted"), overrides, 9)
    train_to(ALONE, str(tmp_path / "parted"), overrides, None)
    # float32, in other orders of sums
    np.testing.assert_allclose(losses(str(tmp_path / "parted")), losses(str(tmp_path / "whole")), rtol=1e-5)


def test_a_config_with_stages_comes_back_from_its_own_text(tmp_path: Path) -> None:
    config = load_config("configs/base.yaml", [STAGES])
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(str(tmp_path / "again.yaml")) == config and len(config.stages) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[{until_step: 6}, {until_step: 3}]", "stage 2 goes from step 6 to step 3; expected stages in order"),
        ("[{until_step: 6}, {until_epoch: 0.5}]", "stage 2 goes from step 6 to step 6"),
        (
            "[{until_epoch: 3}]",
            "stage 1 goes from step 0 to step 33; expected stages in order, each with a step, within",
        ),
        ("[{scale: 8}, {until_step: 3}]", "stage 1 of 2 has no end; expected until_epoch or until_step"),
        ("[{until_epoch: 1e308}]", "until_epoch: found 1e+308, expected a number above 0, at most a million"),
        ("[{until: 3}]", "until: unknown key of a stage; did you mean 'until_step'?"),
        ("[{until_step: 3, until_epoch: 1}]", "found until_epoch and until_step, expected one of them"),
        ("[{scale: [16, -1]}]", "scale: found [16, -1], expected a number above 0, or two of a ramp"),
        ("[{sample_rate: 2}]", "sample_rate: found 2, expected a number between 0 and 1"),
        ("[{margin: {m: 0.3}}]", "margin: m: no setting of CombinedMargin that is a number; did you mean"),
        ("[{margin: {m2: [0, 4]}}]", "margin: found m1=1.0, m2=4.0, m3=0.0; expected"),
        ("[{until_step: 3, sample_rate: 0.9}] head.update=autograd", "found 'frozen' with sample_rate 0.9 and update"),
        ("[3]", "found 3, expected a mapping such as {until_epoch: 2, scale: 16}"),
        ("[{sample_rate: 0.01}]", "0.01 of 11 classes is a sample of 0 per rank"),
    ],
)
def test_stages_that_cannot_be_are_one_line(
    stages: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spelled = f"stages={stages}".replace("] head", "]|head").split("|")
    settings = with_overrides(SMALL, "train.batch_size=12", *spelled, f"output={tmp_path / 'run'}")
    assert main(["configs/base.yaml", *settings]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("train_v2: error: ") and message in error
    assert not (tmp_path / "run" / "model.pt").exists()
