"""Where a run begins: never on top of another one, and by itself where torchrun starts it again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

from recognition.config.loader import load_config
from recognition.config.schema import Config
from recognition.distributed import world as world_module
from recognition.distributed.checkpoint import Checkpoint
from recognition.distributed.world import World
from recognition.errors import CheckpointError, ConfigError
from recognition.heads import products
from recognition.training import start
from recognition.training.run_folder import RunStatus, read_status, write_status
from recognition.training.run_meta import DRAW, RunMeta
from recognition.training.scaler import ScalerState
from recognition.training.start import find_start, hold_global_batch, hold_products, prepare_folder, resumes, tidy
from recognition.training.state import TrainState
from tests.helpers.snapshots import ALONE, save


def _config(*overrides: str) -> Config:
    return load_config("configs/base.yaml", list(overrides))


def test_an_empty_folder_is_begun_anew_or_resumed_at_step_0(tmp_path: Path) -> None:
    assert not resumes(tmp_path / "absent", _config(), ALONE)
    assert resumes(tmp_path, _config("resume=true"), ALONE)
    assert find_start(tmp_path, _config("resume=true"), ALONE)[1] is None


FOUND = {
    "a finished run": RunStatus(is_ended=True, step=7),
    "the weights of a run": RunStatus(is_ended=False, step=7),
    "the checkpoints of a run": None,
}


@pytest.mark.parametrize("found", list(FOUND))
def test_another_run_is_never_mixed_with_a_new_one(found: str, tmp_path: Path) -> None:
    status = FOUND[found]
    if status is not None:
        write_status(tmp_path, status)
    else:
        save(ALONE, tmp_path / "checkpoints", 3)
    with pytest.raises(
        ConfigError, match=f"holds {found}; expected a new folder; set output=..., continue it with resu"
    ):
        resumes(tmp_path, _config(), ALONE)
    assert resumes(tmp_path, _config("resume=true"), ALONE)


def test_weights_say_that_a_run_has_ended_in_folders_of_older_versions_alone(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(ConfigError, match="holds a finished run; expected a new folder"):
        resumes(tmp_path, _config(), ALONE)
    prepare_folder(tmp_path, ALONE, is_resumed=True)
    assert (tmp_path / "model.pt").exists()
    assert not resumes(tmp_path, _config(), ALONE), "killed before its first step"
    prepare_folder(tmp_path, ALONE, is_resumed=False)
    assert not (tmp_path / "model.pt").exists(), "a new run begins without the weights of another"
    assert read_status(tmp_path, has_weights=True) == RunStatus(is_ended=False, step=0)


def test_a_finished_run_without_checkpoints_is_not_trained_over(tmp_path: Path) -> None:
    write_status(tmp_path, RunStatus(is_ended=True, step=7))
    with pytest.raises(ConfigError, match=r"holds a finished run and no checkpoint; expected one to resume from"):
        find_start(tmp_path, _config("resume=true"), ALONE)
    write_status(tmp_path, RunStatus(is_ended=False, step=7))
    assert find_start(tmp_path, _config("resume=true"), ALONE)[1] is None


def test_a_restart_by_the_same_launcher_resumes_and_one_by_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_folder(tmp_path, ALONE, is_resumed=False)
    save(ALONE, tmp_path / "checkpoints", 3)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert resumes(tmp_path, _config(), ALONE)
    monkeypatch.setattr(start, "launcher_name", lambda: "elsewhere 7")  # its first start was refused, so is its second
    with pytest.raises(ConfigError, match="holds the checkpoints of a run"):
        resumes(tmp_path, _config(), ALONE)
    (tmp_path / ".launcher").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="holds the checkpoints of a run"):
        resumes(tmp_path, _config(), ALONE)


def test_a_launcher_is_told_by_more_than_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    host, parent, started = world_module.launcher_name().split()
    assert world_module.launcher_name() == f"{host} {parent} {started}"
    monkeypatch.setattr(world_module.os, "getppid", os.getpid)  # a process, and not the parent
    assert world_module.launcher_name().split()[1:] != [parent, started]


class _Trained:
    """What is asked of a checkpoint here."""

    path = Path("run/checkpoints/step_00000007")

    def __init__(self, global_batch: object) -> None:
        self.meta = RunMeta(TrainState(), ScalerState(1.0, 0), "tiny", 1).as_json() | {"global_batch": global_batch}


def _held(global_batch: object, ranks: int, *overrides: str) -> Config:
    checkpoint: Checkpoint = _Trained(global_batch)  # type: ignore[assignment]
    return hold_global_batch(_config(*overrides), checkpoint, World(0, ranks, 0, torch.device("cpu")))


@pytest.mark.parametrize(("ranks", "accumulation", "each"), [(1, 1, 24), (2, 1, 12), (3, 2, 4), (8, 3, 1)])
def test_the_global_batch_is_held_on_any_number_of_ranks(ranks: int, accumulation: int, each: int) -> None:
    config = _held(24, ranks, f"train.gradient_accumulation={accumulation}", "head.update=autograd")
    assert config.train.batch_size == each
    assert config.train.gradient_accumulation == accumulation


def test_a_global_batch_that_does_not_divide_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        ConfigError, match=r"step_00000007: was trained with a global batch of 1,024, which does not divide by 3 ranks;"
    ):
        _held(1024, 3)
    with pytest.raises(ConfigError, match="global batch of 4, which does not divide by 2 ranks x 4 micro-batches"):
        _held(4, 2, "train.gradient_accumulation=4", "head.update=autograd")


def test_a_number_of_images_that_does_not_go_with_another_key_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"step_00000007: data.images_per_identity: 4 does not divide train.batch_size 6;"
    ):
        _held(24, 4, "data.images_per_identity=4", "train.batch_size=12")


@pytest.mark.parametrize("value", [None, 0, -8, 8.0, True, "8", 1 << 50])
def test_a_global_batch_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"its global batch is .*; expected a whole number"):
        _held(value, 1)


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / ".step_00000004.part").mkdir(parents=True)
    left = [tmp_path / ".model.pt.a1b2.part", checkpoints / ".latest.c3d4.part"]
    kept = [tmp_path / "model.pt", tmp_path / "notes.part", checkpoints / "latest", checkpoints / ".step_00000004.part"]
    for path in left + kept[:3]:
        path.write_text("x")
    tidy(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize(
    ("held", "asked", "found", "said"),
    [
        ({"products": "tf32"}, "auto", "tf32", "head.products is tf32, as when this run began, where auto would be"),
        # Before checkpoints said it there was nothing else.
        ({}, "auto", "float32", "head.products is float32, as when this run began, where auto would be bf16"),
        ({"products": "tf32"}, "bf16", "bf16", ""),
    ],
)
def test_a_resumed_run_keeps_the_products_it_began_with(
    held: dict[str, object],
    asked: str,
    found: str,
    said: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "has_float32_sums", lambda: True)  # from torch 2.8 on
    checkpoint: Checkpoint = _Trained(24)  # type: ignore[assignment]
    checkpoint.meta.update(held)  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO):
        # No GPU is here, so that auto would be what it is on one that is planned for: bf16.
        config = hold_products(_config(f"head.products={asked}"), checkpoint, World(0, 1, 0, torch.device("cuda", 0)))
    assert config.head.products == found
    assert said in caplog.text


@pytest.mark.parametrize(("draw", "rate", "is_said"), [(None, 0.5, True), (DRAW, 0.5, False), (None, 1.0, False)])
def test_another_draw_of_classes_is_said_once_where_it_matters(
    draw: int | None, rate: float, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint: Checkpoint = _Trained(24)  # type: ignore[assignment]
    checkpoint.meta["draw"] = draw  # type: ignore[index]
    with caplog.at_level(logging.INFO):
        hold_products(_config(f"head.sample_rate={rate}"), checkpoint, ALONE)
    assert ("drawn by another rule" in caplog.text) == is_said
