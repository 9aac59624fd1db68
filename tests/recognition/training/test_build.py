"""What a run starts from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from recognition.backbones import build_backbone
from recognition.commands import train
from recognition.config.loader import load_config
from recognition.distributed.world import World
from recognition.errors import CheckpointError, ConfigError
from recognition.heads.margins import AdaFace, CombinedMargin, Ldam
from recognition.training.build import build_head, margin_of, wants_class_sizes
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
    assert str(hit.value).endswith(
        "; they are those of backbone.network=mbf backbone.embedding_size=24 data.image_size=112"
    )


def test_a_margin_is_chosen_by_name_or_by_the_three_numbers() -> None:
    named = load_config("configs/base", ["head.margin={name: adaface, m: 0.3, length_gradient: exact}"])
    assert margin_of(named.head) == AdaFace(m=0.3, length_gradient="exact")
    three = load_config("configs/base", ["head.margins=[1, 0.3, 0.1]", "head.margin_gradient=exact"])
    assert margin_of(three.head) == CombinedMargin(1.0, 0.3, 0.1, "exact")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("name: adafase", "5: head.margin: name: found 'adafase', expected a margin; did you mean 'adaface'?"),
        ("name: adaface\n    n: 0.4", "6: head.margin: n: unknown setting of margin 'adaface'; expected one of "),
        ("name: adaface\n    m: wide", "6: head.margin: m: found 'wide', expected a number; correct it"),
        ("name: adaface\n    m: 0.4\n    h: 0", "5: head.margin: margin: found m=0.4, h=0, alpha=0.01; expected 0 <= "),
        (
            "name: sphereface2\n    balanse: 0.7",
            "6: head.margin: balanse: unknown setting of margin 'sphereface2'; did",
        ),
        ("name: lsoftmax\n    m: 5", "5: head.margin: margin: found m=5; expected 2, 3 or 4; correct it"),
    ],
)
def test_a_wrong_margin_is_told_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(f"# a run\nseed: 1\nhead:\n  margin:\n    {line}\n")
    config = load_config(str(tmp_path / "run.yaml"))
    with pytest.raises(ConfigError) as caught:
        build_head(config, 10, ALONE)
    assert str(caught.value).startswith(f"{tmp_path}/run.yaml:{message}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["head.margin={name: adacos}", "head.scale=30"],
            "head.scale: would be ignored with head.margin 'adacos', which",
        ),
        (["head.margin={name: softmax}", "head.scale=30"], "head.scale: would be ignored with head.margin 'softmax'"),
        (
            ["head.margin={name: lsoftmax}", "head.sub_centers=2"],
            "head.sub_centers: found 2 with LSoftmax, whose centers",
        ),
        (
            ["head.margin={name: asoftmax}", "head.interclass_filtering_threshold=0.4"],
            "head.interclass_filtering_threshold: found 0.4 with ASoftmax, whose negatives are no cosines",
        ),
        (["head.margin={name: uniface}", "head.label_smoothing=0.1"], "head.label_smoothing: found 0.1 with UniFace, "),
        (
            ["head.margin={name: softmax}", "head.init=class_means", "init_from=x"],
            "head.init: found 'class_means' with head.margin 'softmax', whose centers are no means",
        ),
    ],
)
def test_what_a_loss_cannot_go_with_is_one_line_of_a_check(
    overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = ["data.rec=absent", "data.num_classes=100", "data.num_image=1000", "head.lr_factor=1"]
    assert train.main(["configs/base", "--check", *stated, *overrides]) == 1
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1, err
    assert message in err[0]


def test_a_loss_by_class_gets_the_images_of_each_class() -> None:
    config = load_config("configs/base", ["head.margin={name: ldam}", "head.class_balance=0.9", "head.scale=30"])
    assert wants_class_sizes(config.head)
    sizes = torch.tensor([1, 16, 81])
    head = build_head(config, 3, ALONE, sizes)
    assert head.by_class.weights is not None
    assert head.by_class.weights[0] > head.by_class.weights[2]
    assert isinstance(head.margin, Ldam)
    assert head.margin.margin_C is not None
    assert torch.allclose(head.margin.margin_C, torch.tensor([0.5, 0.25, 0.5 / 3], dtype=torch.float64))
    assert not wants_class_sizes(load_config("configs/base", []).head)


@pytest.mark.parametrize("word", ["fused", "deferred"])
def test_both_words_for_the_one_mode_load(word: str) -> None:
    assert build_head(load_config("configs/base", [f"head.update={word}"]), 10, ALONE).update == "fused"


@pytest.mark.parametrize(
    ("overrides", "kind", "spared"),
    [
        ([], "sgd", False),
        (["optim.optimizer=adamw"], "adamw", True),
        (["optim.optimizer=adamw", "optim.decay_vectors=true"], "adamw", False),
        (["optim.optimizer=adamw", "head.optimizer=sgd", "optim.momentum=0.8"], "sgd", True),
        (["head.optimizer=adamw", "optim.betas=[0.8, 0.95]", "head.lr_factor=0.01"], "adamw", False),
    ],
    ids=str,
)
def test_the_centers_follow_the_optimizer_unless_set_apart(
    tmp_path: Path, overrides: list[str], kind: str, spared: bool
) -> None:
    trainer = make_trainer(ALONE, str(tmp_path), overrides)
    optimizer = trainer.parts.optimizer
    of_head, *of_backbone = optimizer.param_groups
    assert (trainer.parts.head.state.kind, optimizer.kind) == (kind, kind)
    assert any(group["weight_decay"] == 0 for group in of_backbone) == spared
    optim = trainer.config.optim
    assert of_head.get("betas") == (optim.betas if kind == "adamw" else None)
    assert of_head.get("momentum") == (None if kind == "adamw" else optim.momentum)
    backbone = optimizer.backbone
    assert isinstance(backbone, torch.optim.AdamW) == (optim.optimizer == "adamw")
