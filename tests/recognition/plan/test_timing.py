"""The estimate of an epoch's time: made of what was measured, and in the right proportion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recognition.config.schema import BackboneConfig, Config, DataConfig, TrainConfig
from recognition.feed.datasets import open_dataset
from recognition.plan import Timing, make_plan, measure_timing, render_plan

DATA = DataConfig("synthetic", num_classes=8, num_image=64, image_size=32, num_workers=0)
TINY = Config(data=DATA, backbone=BackboneConfig(network="tiny", embedding_size=8), train=TrainConfig(batch_size=4))


def test_an_epoch_is_its_steps_and_loading_goes_beside_them_or_before_them():
    beside = Timing(backbone_s=2.0, head_s=1.0, loading_s=5.0, is_apart=True, steps_per_epoch=10)
    assert beside.epoch_s == pytest.approx(50.0)
    assert replace(beside, is_apart=False).epoch_s == pytest.approx(80.0)
    assert replace(beside, loading_s=0.5).epoch_s == pytest.approx(30.0)


def test_every_part_is_measured_and_said():
    plan = make_plan(TINY, world_size=2, num_images=64, num_classes=8)
    timing = measure_timing(plan, open_dataset(DATA), torch.device("cpu"))
    assert min(timing.backbone_s, timing.head_s, timing.loading_s) > 0
    assert (timing.is_apart, timing.steps_per_epoch) == (False, 8)
    text = render_plan(plan, None, timing)
    assert "an epoch on this machine" in text
    assert "if all ranks are like this one" in text
    assert measure_timing(plan, None, torch.device("cpu")).loading_s == 0
