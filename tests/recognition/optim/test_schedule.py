"""The rate is a pure function of the step."""

from __future__ import annotations

import math

import pytest
import torch

from recognition.config.checks import check_config
from recognition.config.schema import Config, OptimConfig
from recognition.errors import ConfigError
from recognition.optim.schedule import Plateau, Schedule


def test_warm_up_rises_from_the_first_step_and_ends_at_the_base_rate() -> None:
    schedule = Schedule(base_lr=0.4, warmup_steps=10, total_steps=110)
    rates = [schedule.lr_at(step) for step in range(11)]
    assert rates[:10] == pytest.approx([0.04 * k for k in range(1, 11)])
    assert rates[10] == pytest.approx(0.4)


def test_polynomial_decay_follows_its_formula_and_ends_at_zero() -> None:
    schedule = Schedule(base_lr=1.0, warmup_steps=20, total_steps=120, power=2.0)
    for step in range(20, 120):
        assert schedule.lr_at(step) == pytest.approx((1 - (step - 20) / 100) ** 2)
    assert schedule.lr_at(120) == 0.0
    assert schedule.lr_at(10_000) == 0.0


def test_cosine_decay_is_half_way_down_in_the_middle() -> None:
    schedule = Schedule(base_lr=0.2, warmup_steps=0, total_steps=100, shape="cosine")
    assert schedule.lr_at(0) == pytest.approx(0.2)
    assert schedule.lr_at(50) == pytest.approx(0.1)
    assert schedule.lr_at(25) == pytest.approx(0.2 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_no_rate_exceeds_the_base_rate() -> None:
    for shape in ("poly", "cosine", "multistep", "plateau"):
        schedule = Schedule(base_lr=0.1, warmup_steps=7, total_steps=50, shape=shape, milestones=(20,))
        assert all(0 <= schedule.lr_at(step) <= 0.1 for step in range(60))


def test_epochs_become_steps() -> None:
    schedule = Schedule.of(OptimConfig(warmup_epoch=0.5), steps_per_epoch=30, num_epoch=4)
    assert (schedule.warmup_steps, schedule.total_steps) == (15, 120)


def reference(step_lr: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(step_lr.optimizer.param_groups[0]["lr"])
        step_lr.optimizer.step()
        step_lr.step()
    return rates


def test_multistep_drops_where_torchs_does() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    expected = reference(torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 35], gamma=0.2), 50)
    optim = OptimConfig(lr=0.3, schedule="multistep", milestones=(2, 3.5), drop_factor=0.2)
    schedule = Schedule.of(optim, steps_per_epoch=10, num_epoch=5)
    assert [schedule.lr_at(step) for step in range(50)] == pytest.approx(expected)


@pytest.mark.parametrize("patience", [0, 2])
def test_plateau_drops_where_torchs_does(patience: int) -> None:
    scores = [0.5, 0.6, 0.6, 0.55, math.nan, 0.61, 0.4, 0.3, 0.2, 0.1, 0.61, 0.62, 0.6, 0.6, 0.6, 0.6, 0.6]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", 0.5, patience, threshold=0.0)
    schedule = Schedule.of(OptimConfig(lr=0.3, schedule="plateau", drop_factor=0.5), steps_per_epoch=10, num_epoch=5)
    seen = Plateau()
    for score in scores:
        torchs.step(score)
        seen = seen.after(score, patience)
        assert schedule.lr_at(40, seen.drops) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert seen.drops >= 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "multistep"}, "optim.milestones: multistep needs some; name the epochs"),
        ({"schedule": "multistep", "milestones": (5.0, 2.0)}, "each later than the one before"),
        ({"schedule": "multistep", "milestones": (0.0,)}, "epochs above 0"),
        ({"schedule": "multistep", "milestones": (5.0, 20.0)}, "expected all of them before the end"),
        ({"schedule": "multistep", "milestones": (5.0,), "drop_factor": 1.0}, "above 0 and below 1"),
        ({"milestones": (5.0,)}, "milestones: would be ignored with optim.schedule poly"),
        ({"schedule": "cosine", "drop_factor": 0.5}, "drop_factor: would be ignored with optim.schedule cosine"),
        (
            {"schedule": "multistep", "milestones": (5.0,), "patience": 3},
            "patience: would be ignored with optim.schedule",
        ),
        ({"schedule": "plateau"}, "plateau follows the validation, and there is none; name validation.val_targets"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(Config(optim=OptimConfig(**values)))
