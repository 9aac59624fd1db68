"""TensorBoard holds scalars and histograms of what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recognition.distributed.world import World
from recognition.training.meters import DeviceMeans, RunLog, cut_records
from tests.helpers.runs import make_trainer

ALONE = World(0, 1, 0, torch.device("cpu"))


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"histograms": 0, "scalars": 0})
    events.Reload()
    return events


def test_a_run_leaves_scalars_and_the_distributions_behind_its_means(tmp_path: Path) -> None:
    trainer = make_trainer(
        ALONE, str(tmp_path), ["train.batch_size=12", "train.num_epoch=1", "log.tensorboard=true", "log.every_steps=5"]
    )
    trainer.fit()
    events = _events(tmp_path)
    scalars = set(events.Tags()["scalars"])
    assert {"train/loss", "train/img_per_s", "train/data_wait", "train/lr", "train/target_cosine"} <= scalars
    assert set(events.Tags()["histograms"]) == {"train/embedding_norm", "train/target_cosine", "train/hardest_negative"}
    last = events.Histograms("train/target_cosine")[-1]
    assert [event.step for event in events.Histograms("train/target_cosine")] == [5, 10, 11]
    (mean,) = [event.value for event in events.Scalars("train/target_cosine") if event.step == 11]
    assert last.histogram_value.num == 12
    assert last.histogram_value.sum / 12 == pytest.approx(mean, rel=1e-5)
    assert events.Histograms("train/embedding_norm")[-1].histogram_value.min > 0


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    log = RunLog(tmp_path, is_main=True, tensorboard=True)
    log.histograms(3, {"some": torch.tensor([1.0, float("nan"), 2.0]), "none": torch.tensor([float("inf")])})
    log.close()
    events = _events(tmp_path)
    assert events.Tags()["histograms"] == ["train/some"]
    assert events.Histograms("train/some")[0].histogram_value.num == 2
    assert not RunLog(tmp_path, is_main=False, tensorboard=True).draws


def test_records_after_a_step_and_half_of_one_are_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_records(path, 5)
    assert not path.exists()
    rows = [f'{{"step": {step}, "kind": "train"}}\n' for step in (0, 3, 5, 6, 9)]
    path.write_text("".join(rows) + '{"step": 4, "ki')
    cut_records(path, 5)
    assert path.read_text() == "".join(rows[:3])
    cut_records(path, -1)
    assert path.read_text() == ""


def test_means_go_on_bit_by_bit_from_what_they_held() -> None:
    whole, first, second = DeviceMeans(), DeviceMeans(), DeviceMeans()
    values = [{"loss": torch.tensor(value)} for value in (0.1, 0.7, 1e-8)]
    for value in values:
        whole.add(value)
    for value in values[:2]:
        first.add(value)
    second.hold(*first.held(), torch.device("cpu"))
    second.add(values[2])
    assert second.drain() == whole.drain()
    assert second.held() == (0, {})
