"""The rate is a pure function of the step."""

from __future__ import annotations

import math

import pytest

from recognition.config.schema import OptimConfig
from recognition.optim.schedule import Schedule


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
    for shape in ("poly", "cosine"):
        schedule = Schedule(base_lr=0.1, warmup_steps=7, total_steps=50, shape=shape)
        assert all(0 <= schedule.lr_at(step) <= 0.1 for step in range(60))


def test_epochs_become_steps() -> None:
    schedule = Schedule.of(OptimConfig(warmup_epoch=0.5), steps_per_epoch=30, num_epoch=4)
    assert (schedule.warmup_steps, schedule.total_steps) == (15, 120)
