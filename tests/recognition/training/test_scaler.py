"""The loss scale halves on overflow, doubles after good steps, and keeps its floor."""

from __future__ import annotations

import torch

from recognition.training.scaler import LossScaler

CPU = torch.device("cpu")
OVERFLOW, GOOD = torch.tensor(1.0), torch.tensor(0.0)


def test_overflow_halves_and_restarts_the_count() -> None:
    scaler = LossScaler(CPU, enabled=True, initial=1024.0, growth_interval=3)
    for found in (GOOD, GOOD, OVERFLOW, GOOD, GOOD):
        scaler.update_(found)
    assert scaler.scale.item() == 512
    scaler.update_(GOOD)
    assert scaler.scale.item() == 1024


def test_the_scale_never_sinks_below_its_floor() -> None:
    scaler = LossScaler(CPU, enabled=True, initial=4.0)
    for _ in range(20):
        scaler.update_(OVERFLOW)
    assert scaler.scale.item() == LossScaler.floor


def test_a_disabled_scaler_stays_at_one() -> None:
    scaler = LossScaler(CPU, enabled=False)
    scaler.update_(OVERFLOW)
    assert scaler.scale.item() == 1.0


def test_state_travels() -> None:
    scaler = LossScaler(CPU, enabled=True, initial=64.0, growth_interval=3)
    scaler.update_(GOOD)
    other = LossScaler(CPU, enabled=True, growth_interval=3)
    other.load_state(scaler.state())
    for _ in range(2):
        other.update_(GOOD)
    assert other.scale.item() == 128
