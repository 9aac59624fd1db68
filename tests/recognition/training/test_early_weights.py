"""Weights can be had before a run ends: each command takes a run under way, a checkpoint, and what names one."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recognition.backbones.metadata import KEY, ModelMetadata
from recognition.backbones.run_weights import find_weights
from recognition.backbones.safetensors_file import read_safetensors
from recognition.backbones.weights import load_backbone
from recognition.commands.embed_faces import main as embed_faces
from recognition.commands.verify import main as verify
from recognition.config.loader import dump_config
from recognition.config.schema import ValidationConfig
from recognition.errors import CheckpointError
from recognition.training.run_folder import RunStatus, read_status
from recognition.verification.validators import Report, build_validators
from tests.helpers.faces import write_faces
from tests.helpers.runs import make_trainer
from tests.helpers.snapshots import ALONE
from tests.helpers.worlds import run_world

RUN = ["data.num_image=48", "train.batch_size=12", "train.num_epoch=2", "checkpoint.every_steps=3"]


class Scripted:
    """A validator whose scores are given."""

    def __init__(self, *scores: float) -> None:
        self._scores = itertools.chain(scores, itertools.repeat(scores[-1]))

    def run(self, embed: Any) -> Report:
        score = next(self._scores)
        return Report(score=score, values={"accuracy": score}, line="scripted")


class StoppedHere(Exception):
    """A kill, as far as the folder can tell."""


def trainer_of(folder: Path, *scores: float, every: int = 3, stop_at: int | None = None, more: Any = ()) -> Any:
    trainer = make_trainer(ALONE, str(folder), [*RUN, *more], {"a": Scripted(*scores)} if scores else {})
    object.__setattr__(trainer.config.validation, "every_steps", every)  # a config without .bin files has no use for it
    take = trainer.train_step

    def take_or_stop(*args: Any) -> Any:
        if trainer.state.step == stop_at:
            trainer.saver.finish()
            raise StoppedHere
        return take(*args)

    trainer.train_step = take_or_stop
    return trainer


def step_of(path: Path) -> int:
    if not path.exists():
        return -1
    step: int = ModelMetadata.from_json(read_safetensors(path)[1][KEY], place=str(path)).metrics["step"]
    return step


def test_weights_are_written_at_validations_epoch_ends_and_the_end(tmp_path: Path) -> None:
    found = {}
    trainer = trainer_of(tmp_path, 0.5, 0.9, 0.7)
    take = trainer.train_step

    def take_and_look(*args: Any) -> Any:
        names = ("model.safetensors", "best.safetensors")
        found[trainer.state.step] = tuple(step_of(tmp_path / name) for name in names)
        return take(*args)

    trainer.train_step = take_and_look
    trainer.fit()
    # An epoch has 4 steps: step 4 is written for its end alone, step 3 and 6 for their validations.
    assert found == {0: (-1, -1), 1: (-1, -1), 2: (-1, -1), 3: (3, 3), 4: (4, 3), 5: (4, 3), 6: (6, 3), 7: (6, 3)}
    assert (step_of(tmp_path / "model.safetensors"), step_of(tmp_path / "best.safetensors")) == (8, 3)
    plain, described = (load_backbone(tmp_path / name).facts for name in ("best.pt", "best.safetensors"))
    assert plain.fingerprint == described.fingerprint
    assert read_status(tmp_path, has_weights=True) == RunStatus(is_ended=True, step=8)


def test_a_run_without_validation_has_weights_from_its_first_epoch_on(tmp_path: Path) -> None:
    with pytest.raises(StoppedHere):
        trainer_of(tmp_path, stop_at=5).fit()
    assert step_of(tmp_path / "model.safetensors") == 4
    assert not list(tmp_path.glob("best.*"))
    assert read_status(tmp_path, has_weights=True) == RunStatus(is_ended=False, step=4)


def test_a_resumed_run_knows_its_best(tmp_path: Path) -> None:
    with pytest.raises(StoppedHere):
        trainer_of(tmp_path, 0.5, 0.9, stop_at=5).fit()
    trainer_of(tmp_path, 0.8, more=["resume=true"]).fit()
    assert step_of(tmp_path / "best.safetensors") == 3


def test_a_broken_network_is_not_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of(tmp_path, 0.5, stop_at=4)
    take = trainer.train_step

    def break_and_take(*args: Any) -> Any:
        if trainer.state.step == 2:
            next(trainer.parts.backbone.buffers()).fill_(float("nan"))
        return take(*args)

    trainer.train_step = break_and_take
    with pytest.raises(StoppedHere):
        trainer.fit()
    assert not (tmp_path / "model.safetensors").exists()
    assert "no weights: " in caplog.text


@pytest.mark.slow
def test_every_command_takes_a_run_under_way_and_its_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    trainer = trainer_of(run, 0.5, 0.9, 0.7, stop_at=7)
    with pytest.raises(StoppedHere):
        trainer.fit()
    (run / "config.yaml").write_text(dump_config(dataclasses.replace(trainer.config, validation=ValidationConfig())))
    checkpoints = run / "checkpoints"
    faces, pairs = write_faces(tmp_path, 32)
    models = {
        run: run / "model.safetensors",
        checkpoints: checkpoints / "step_00000006",
        checkpoints / "latest": checkpoints / "step_00000006",
        checkpoints / "best": checkpoints / "step_00000003",
        checkpoints / "step_00000003": checkpoints / "step_00000003",
        run / "best.pt": run / "best.pt",
    }
    prints = {}
    for number, (path, file) in enumerate(models.items()):
        assert find_weights(path) == file
        prints[path] = load_backbone(path).facts.fingerprint
        assert verify([str(path), str(pairs), "--folds", "2", "--json", "--quiet"]) == 0
        assert json.loads(capsys.readouterr().out)["image_size"] == 32
        out = str(tmp_path / f"out{number}")
        assert embed_faces([str(faces), out, "--model", str(path), "--json", "--quiet"]) == 0
        assert json.loads(capsys.readouterr().out)["model_fingerprint"] == prints[path]
        make_trainer(ALONE, str(tmp_path / "next"), [f"init_from={path}"])
    assert prints[run] == prints[checkpoints] == prints[checkpoints / "latest"], "step 6 in three forms"
    assert prints[run / "best.pt"] == prints[checkpoints / "best"], "step 3 in two"
    for name in ("model.safetensors", "model.pt"):
        (run / name).unlink()
    assert find_weights(run) == checkpoints / "step_00000006", "its newest checkpoint where nothing else is"


@pytest.mark.parametrize("content", [b"", b"step_00000009\n", b"../../x", b"/etc", b"\xff", b"."])
def test_a_pointer_that_names_no_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "latest").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"latest: names .*, which is no checkpoint here; expected one; name"):
        find_weights(tmp_path / "latest")


def test_a_torn_checkpoint_is_refused_as_weights(tmp_path: Path) -> None:
    with pytest.raises(StoppedHere):
        trainer_of(tmp_path, stop_at=4).fit()
    folder = tmp_path / "checkpoints" / "step_00000003"
    content = bytearray((folder / "replicated.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "replicated.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="its checksum differs"):
        load_backbone(folder)


@pytest.mark.slow
def test_a_checkpoint_of_several_ranks_is_the_model_that_they_publish(tmp_path: Path) -> None:
    run_world(2, _two_ranks, str(tmp_path))
    newest = load_backbone(tmp_path / "checkpoints").facts.fingerprint
    assert newest == load_backbone(tmp_path / "model.pt").facts.fingerprint


def _two_ranks(world: Any, folder: str) -> None:
    trainer = make_trainer(world, folder, ["data.num_image=48", "train.batch_size=6", "train.num_epoch=1"])
    trainer.fit()


@pytest.mark.slow
def test_verify_gives_the_number_of_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a run under way, on the very pairs that it validates on."""
    _, pairs = write_faces(tmp_path, 32, num_pairs=40)
    run = tmp_path / "run"
    trainer = trainer_of(run, 0.5, stop_at=7, more=[f"validation.val_targets=[{pairs}]", "validation.every_steps=3"])
    trainer.validators = build_validators(trainer.config, ALONE, quiet=True)
    with pytest.raises(StoppedHere):
        trainer.fit()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if row["kind"] != "train"][-1]
    assert logged["step"] == step_of(run / "model.safetensors") == 6
    assert verify([str(run), str(pairs), "--json", "--quiet", "--device", "cpu"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["accuracy"] == pytest.approx(logged["accuracy"], abs=1e-12)
    assert torch.isfinite(torch.tensor(result["accuracy"]))
