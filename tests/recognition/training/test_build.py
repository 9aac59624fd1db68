"""What a run starts from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from recognition.backbones import build_backbone
from recognition.distributed.world import World
from recognition.errors import CheckpointError
from tests.helpers.runs import make_trainer

ALONE = World(0, 1, 0, torch.device("cpu"))


def test_published_weights_start_the_backbone_and_the_log_says_what_matched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published = build_backbone("tiny", embedding_size=16, image_size=32)
    torch.save({f"module.{key}": tensor for key, tensor in published.state_dict().items()}, tmp_path / "backbone.pth")
    with caplog.at_level(logging.INFO):
        trainer = make_trainer(ALONE, str(tmp_path / "run"), [f"init_from={tmp_path}/backbone.pth"])
    for key, tensor in published.state_dict().items():
        assert torch.equal(trainer.parts.backbone.state_dict()[key], tensor), key
    line = f"backbone starts from {tmp_path}/backbone.pth: all 115 keys matched, network tiny, embedding size 16"
    assert line in caplog.messages


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    torch.save(build_backbone("mbf", embedding_size=24).state_dict(), tmp_path / "backbone.pth")
    with pytest.raises(CheckpointError) as hit:
        make_trainer(ALONE, str(tmp_path / "run"), [f"init_from={tmp_path}/backbone.pth"])
    assert str(hit.value).startswith(f"{tmp_path}/backbone.pth: does not fit the network: ")
    assert str(hit.value).endswith("; they are those of backbone.network=mbf backbone.embedding_size=24")
