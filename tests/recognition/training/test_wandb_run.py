"""Weights & Biases through a stand-in for its package: what is asked of it, and what is refused before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recognition.config.loader import load_config
from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.training.wandb_run import require_wandb
from tests.helpers.runs import make_trainer

ALONE = World(0, 1, 0, torch.device("cpu"))
STAND_IN = """
class Error(Exception):
    pass

class Histogram:
    def __init__(self, values):
        self.count = len(values)

class Run:
    def __init__(self, given):
        self.given, self.id, self.rows, self.finished = given, given["id"] or "abc123", [], False
    def log(self, values, step):
        self.rows.append((step, values))
    def finish(self):
        self.finished = True

runs, refuse = [], None

def init(**given):
    if refuse:
        raise Error(refuse)
    runs.append(Run(given))
    return runs[-1]
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield __import__("wandb")
    del sys.modules["wandb"]


RUN = ["train.batch_size=12", "train.num_epoch=1", "log.every_steps=5", "log.wandb=faces"]


def test_one_run_receives_scalars_and_histograms_and_is_taken_up_again(wandb: Any, tmp_path: Path) -> None:
    make_trainer(ALONE, str(tmp_path / "run"), RUN).fit()
    (run,) = wandb.runs
    assert run.finished
    assert (run.given["project"], run.given["name"], run.given["id"]) == ("faces", "run", None)
    assert run.given["config"]["optim.lr"] == 0.02
    assert not any("key" in name for name in run.given)
    rows = [(step, values) for step, values in run.rows if "train/loss" in values]
    assert [step for step, _ in rows] == [5, 10, 11]
    assert {"train/img_per_s", "train/data_wait", "train/lr"} <= rows[0][1].keys()
    (shapes,) = [values for step, values in run.rows if step == 5 and "train/loss" not in values]
    counts = {name: shape.count for name, shape in shapes.items()}
    assert counts == {"train/embedding_norm": 12, "train/target_cosine": 12, "train/hardest_negative": 12}
    make_trainer(ALONE, str(tmp_path / "run"), [*RUN, "resume=true"]).fit()
    assert wandb.runs[1].given["id"] == "abc123"


def test_the_other_ranks_open_nothing(wandb: Any, tmp_path: Path) -> None:
    trainer = make_trainer(ALONE, str(tmp_path / "zero"), RUN)
    other = World(1, 1, 0, torch.device("cpu"))
    type(trainer)(
        trainer.plan, trainer.parts, trainer.loader, world=other, folder=tmp_path / "zero", validators={}
    ).reports.log.close()
    assert len(wandb.runs) == 1


def test_a_refusal_is_one_line(wandb: Any, tmp_path: Path) -> None:
    wandb.refuse = "permission denied\nmore"
    with pytest.raises(ConfigError) as hit:
        make_trainer(ALONE, str(tmp_path / "run"), RUN)
    expected = "log.wandb: 'faces' cannot be written to (permission denied); check WANDB_API_KEY and the project"
    assert str(hit.value).startswith(expected)


def test_the_package_and_its_key_are_needed_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    config = load_config("configs/base.yaml", ["data.rec=x", "log.wandb=faces"])
    require_wandb(load_config("configs/base.yaml", ["data.rec=x"]), {})
    (tmp_path / "left" / "wandb").mkdir(parents=True)  # what the package itself leaves where it ran
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path / "left")])
        with pytest.raises(ConfigError, match=r"log.wandb: found 'faces', but the wandb package is not installed; pip"):
            require_wandb(config, {"WANDB_API_KEY": "k"})
    request.getfixturevalue("wandb")
    with pytest.raises(ConfigError, match=r"but WANDB_API_KEY is not set; export it, set WANDB_MODE=offline, or"):
        require_wandb(config, {})
    require_wandb(config, {"WANDB_API_KEY": "k"})
    require_wandb(config, {"WANDB_MODE": "offline"})
    with pytest.raises(ConfigError, match=r"log.wandb: found ' ', expected the name of a project, or null"):
        load_config("configs/base.yaml", ["data.rec=x", "log.wandb=' '"])
