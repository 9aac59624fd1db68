"""A run's model is read back by every command without a flag, and gives away nothing of the machine it was made on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from recognition.backbones.weights import load_backbone
from recognition.commands.embed_faces import main as embed_faces
from recognition.commands.verify import main as verify
from recognition.config.schema import Config
from recognition.distributed.world import World
from recognition.errors import CheckpointError
from recognition.training.publish import LOCAL_KEYS, describe_model, portable_config
from recognition.training.state import TrainState
from recognition.verification.validators import Report
from tests.helpers.faces import write_faces
from tests.helpers.runs import make_trainer

ALONE = World(0, 1, 0, torch.device("cpu"))
NAMES = {"backbone.network", "optim.freeze", "optim.no_decay", "validation.val_targets"}
"""Keys of free text that name something everywhere."""


def train(folder: Path, embedding_size: int, image_size: int, *more: str) -> Any:
    """Train a small network for two steps on synthetic pictures."""
    overrides = [
        f"backbone.embedding_size={embedding_size}",
        f"data.image_size={image_size}",
        "data.num_image=16",
        "data.num_classes=4",
        "train.batch_size=8",
        "train.num_epoch=1",
        *more,
    ]
    trainer = make_trainer(ALONE, str(folder), overrides)
    trainer.fit()
    return trainer


def all_but_one(slow: Any) -> list[Any]:
    """Return the grid of embedding and image sizes, of which one is quick enough for every day."""
    grid = [(numbers, side) for numbers in (128, 256, 512) for side in (96, 112, 128, 224)]
    return [pytest.param(*point, marks=[] if point == (256, 96) else [slow]) for point in grid]


@pytest.mark.parametrize(("embedding_size", "image_size"), all_but_one(pytest.mark.slow))
def test_a_model_of_any_sizes_is_read_without_a_flag(
    embedding_size: int, image_size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = train(tmp_path / "run", embedding_size, image_size)
    faces, pairs = write_faces(tmp_path, image_size)
    for model in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        assert verify([str(model), str(pairs), "--folds", "2", "--json", "--quiet"]) == 0
        verified = capsys.readouterr()
        assert "are scaled" not in verified.err
        output = tmp_path / f"embedded {model.name}"
        assert embed_faces([str(faces), str(output), "--model", str(model), "--json", "--quiet"]) == 0
        results = [json.loads(verified.out), json.loads(capsys.readouterr().out)]
        results.append(json.loads((output / "embeddings.json").read_text()))
        for result in results:
            assert (result["network"], result["embedding_size"], result["image_size"]) == (
                "tiny",
                embedding_size,
                image_size,
            )
            assert result["dataset_fingerprint"] == trainer.loader.dataset_fingerprint()
            assert result["model_fingerprint"] == load_backbone(tmp_path / "run" / "model.pt").facts.fingerprint
        assert np.load(output / "embeddings.npy").shape == (4, embedding_size)
    again = make_trainer(
        ALONE,
        str(tmp_path / "next"),
        [f"init_from={tmp_path}/run", f"backbone.embedding_size={embedding_size}", f"data.image_size={image_size}"],
    )
    for key, tensor in trainer.parts.backbone.state_dict().items():
        assert torch.equal(again.parts.backbone.state_dict()[key], tensor), key


def test_a_start_from_a_model_of_other_sizes_is_one_line(tmp_path: Path) -> None:
    train(tmp_path / "run", 16, 48)
    with pytest.raises(CheckpointError, match=r"metadata says data.image_size=48; expected data.image_size=64") as hit:
        make_trainer(ALONE, str(tmp_path / "next"), [f"init_from={tmp_path}/run", "data.image_size=64"])
    assert str(hit.value).startswith(f"{tmp_path}/run/model.safetensors: ")


def test_the_model_says_where_the_run_stood(tmp_path: Path) -> None:
    scores = iter((0.75, 0.5))

    class Scripted:
        def run(self, embed: Any) -> Report:
            return Report(score=next(scores), values={}, line="scripted")

    overrides = ["data.num_image=24", "train.batch_size=12", "train.num_epoch=1"]
    trainer = make_trainer(ALONE, str(tmp_path), overrides, {"lfw": Scripted()})
    trainer.fit()
    about = describe_model(trainer.config, trainer.state, {})
    assert about.metrics == {
        "step": 2,
        "images_seen": 24,
        "validated_step": 2,
        "accuracy": 0.5,
        "best": {"lfw": 0.75},
    }
    assert about.config["optim.lr"] == 0.02
    assert describe_model(trainer.config, TrainState(), {}).metrics == {"step": 0, "images_seen": 0}


def free_text_keys(cls: Any, prefix: str = "") -> set[str]:
    """Return the dotted keys whose value may be any text."""
    found = set()
    for name, kind in get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            found |= free_text_keys(kind, f"{prefix}{name}.")
        elif kind is str or str in get_args(kind):
            found.add(prefix + name)
    return found


def test_no_local_path_leaves_with_the_model() -> None:
    assert free_text_keys(Config) == LOCAL_KEYS | NAMES, "a new key of free text: does it name something everywhere?"
    data = dataclasses.replace(Config().data, rec="/home/me/faces", more_rec=("/home/me/more",))
    config = dataclasses.replace(Config(), data=data, output="/home/me/run", init_from="/home/me/model.pt")
    assert "/home/me" not in describe_model(config, TrainState(), {}).to_json()
    assert portable_config(config)["head.margins"] == (1.0, 0.5, 0.0)
