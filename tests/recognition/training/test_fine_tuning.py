"""Fine-tuning: what is frozen keeps its bits, the average is its recursion, and the shown model is one of its own."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from recognition.backbones.weights import load_backbone
from recognition.commands.train import main
from recognition.distributed.world import World
from recognition.embedding.embedder import evaluating
from recognition.images.preprocess import to_network
from recognition.training.interrupts import Stopped
from recognition.training.trainer import Trainer
from tests.helpers.runs import SMALL, fit, losses, make_trainer, snapshot, with_overrides
from tests.helpers.worlds import run_world

ALONE = World(0, 1, 0, torch.device("cpu"))
SHORT = ["train.batch_size=12", "train.num_epoch=1"]


@pytest.fixture
def started(tmp_path: Path) -> str:
    """A run of a few steps to start from."""
    make_trainer(ALONE, str(tmp_path / "old"), SHORT).fit()
    return str(tmp_path / "old")


def watched(trainer: Trainer, see: Any) -> None:
    """Call `see(step, result)` after each step."""
    step = trainer.stepper.step

    def step_and_see(*args: Any, **settings: Any) -> Any:
        result = step(*args, **settings)
        see(settings["step"], result)
        return result

    trainer.stepper.step = step_and_see  # type: ignore[method-assign]


def test_what_is_frozen_keeps_its_bits_and_the_rest_learns(started: str, tmp_path: Path) -> None:
    frozen = ["conv1.*", "bn1.*", "layer1.*"]
    overrides = [*SHORT, f"init_from={started}", f"optim.freeze=[{', '.join(frozen)}]"]
    trainer = make_trainer(ALONE, str(tmp_path / "new"), overrides)
    before = {name: tensor.clone() for name, tensor in trainer.parts.backbone.state_dict().items()}
    trainer.fit()
    after = trainer.parts.backbone.state_dict()
    held = {name for name in before if name.startswith(("conv1.", "bn1.", "layer1."))}
    assert any(name.endswith("running_mean") for name in held)
    assert all(torch.equal(after[name], before[name]) for name in held)
    learned = {name for name, parameter in trainer.parts.backbone.named_parameters() if parameter.requires_grad}
    assert not learned & held
    assert learned and not any(torch.equal(after[name], before[name]) for name in learned)


def test_rates_and_decay_are_those_of_the_keys(started: str, tmp_path: Path) -> None:
    overrides = [*SHORT, 'optim.no_decay=["*.bias", "bn*"]', "optim.backbone_lr_factor=0.25", "head.lr_factor=2"]
    trainer = make_trainer(ALONE, str(tmp_path / "new"), overrides)
    rates: list[tuple[float, ...]] = []
    watched(trainer, lambda *_: rates.append(tuple(group["lr"] for group in trainer.parts.optimizer.param_groups)))
    trainer.fit()
    base = trainer.plan.schedule.lr_at(0)
    assert rates[0] == (2 * base, 0.25 * base, 0.25 * base)
    named = trainer.parts.backbone.named_parameters()
    names = {id(parameter): name for name, parameter in named if parameter.requires_grad}
    _, decayed, undecayed = trainer.parts.optimizer.param_groups
    assert decayed["weight_decay"] == 0.0005 and undecayed["weight_decay"] == 0.0
    assert {id(p) for group in (decayed, undecayed) for p in group["params"]} == names.keys()
    spared = {names[id(parameter)] for parameter in undecayed["params"]}
    assert spared == {name for name in names.values() if name.endswith(".bias") or name.startswith("bn")}


def test_the_average_is_its_recursion_in_float64(tmp_path: Path) -> None:
    trainer = make_trainer(ALONE, str(tmp_path), [*SHORT, "train.ema=0.7"])
    weights = {name: weight for name, weight in trainer.parts.backbone.named_parameters() if weight.requires_grad}
    expected = {name: weight.detach().double() for name, weight in weights.items()}

    def recur(step: int, _: Any) -> None:
        decay = min(0.7, (1 + step) / (10 + step))
        for name, weight in weights.items():
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach().double()

    watched(trainer, recur)
    trainer.fit()
    published = load_backbone(tmp_path / "model.safetensors").module.state_dict()
    for name, weight in weights.items():
        assert torch.allclose(published[name].double(), expected[name], rtol=1e-5, atol=1e-7)  # float32 sums
        assert not torch.equal(published[name], weight.detach())


def test_a_refused_step_leaves_the_average(tmp_path: Path) -> None:
    trainer = make_trainer(ALONE, str(tmp_path), [*SHORT, "train.ema=0.9", "train.max_refused_steps=30"])
    average = trainer.parts.average
    assert average is not None
    before = {name: tensor.clone() for name, tensor in average.state().items()}
    average.update(5, torch.tensor(1.0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.state().items())


def test_a_resumed_run_has_the_average_of_an_undisturbed_one(tmp_path: Path) -> None:
    overrides = ["train.batch_size=12", "train.num_epoch=1", "train.ema=0.9", "train.recalibrate_bn=24"]
    make_trainer(ALONE, str(tmp_path / "whole"), overrides).fit()
    trainer = make_trainer(ALONE, str(tmp_path / "parted"), overrides)
    watched(trainer, lambda step, _: signal.raise_signal(signal.SIGTERM) if step == 4 else None)
    with pytest.raises(Stopped):
        trainer.fit()
    make_trainer(ALONE, str(tmp_path / "parted"), [*overrides, "resume=true"]).fit()
    models = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "parted")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_statistics_taken_anew_are_those_of_the_images_and_training_keeps_its_own(tmp_path: Path) -> None:
    trainer = make_trainer(ALONE, str(tmp_path), [*SHORT, "train.recalibrate_bn=12"])
    trainer.fit()
    backbone = trainer.parts.backbone
    own = snapshot(trainer)
    numbers = np.linspace(0, 131, 12).astype(np.int64)
    seen: list[torch.Tensor] = []
    first = next(module for module in backbone.modules() if isinstance(module, _BatchNorm))
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with evaluating(backbone), torch.no_grad():
        backbone(to_network(trainer.loader.read(numbers)))
    hook.remove()
    published = load_backbone(tmp_path / "model.safetensors").module.state_dict()
    name = next(name for name, module in backbone.named_modules() if module is first)
    assert torch.allclose(published[f"{name}.running_mean"], seen[0].mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(published[f"{name}.running_var"], seen[0].var((0, 2, 3)), rtol=1e-4)
    assert not torch.allclose(first.running_mean, seen[0].mean((0, 2, 3)), atol=1e-5)
    with trainer.shown.shown():
        pass
    assert all(torch.equal(tensor, own[name]) for name, tensor in snapshot(trainer).items())


@pytest.mark.slow
def test_two_ranks_train_and_show_what_one_does(started: str, tmp_path: Path) -> None:
    overrides = [
        *SHORT,
        f"init_from={started}",
        "backbone.sync_bn=true",
        "optim.freeze=[layer1.*]",
        "train.ema=0.8",
        "train.recalibrate_bn=24",
    ]
    one, _ = fit(ALONE, str(tmp_path / "one"), overrides)
    two = run_world(2, fit, str(tmp_path / "two"), with_overrides(overrides, "train.batch_size=6"))[0][0]
    np.testing.assert_allclose(two, one, rtol=1e-5)  # float32, sums in another order
    assert losses(str(tmp_path / "one")) == one
    models = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("one", "two")]
    for key, tensor in models[0].items():
        assert torch.allclose(tensor.float(), models[1][key].float(), rtol=1e-4, atol=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["optim.freeze=[layr1.*]", "init_from={old}"],
            "optim.freeze: 'layr1.*' matches no parameter of the backbone; did",
        ),
        (["optim.freeze=['*']", "init_from={old}"], "optim.freeze: * names every parameter of the backbone; expected"),
        (["optim.freeze=[conv1.*]"], "without init_from, so they would stay random; set init_from"),
        (["optim.no_decay=['*.gamma']"], "optim.no_decay: '*.gamma' matches no parameter of the backbone"),
        (["train.ema=1"], "train.ema: found 1, expected at least 0 and below 1"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    settings: list[str], message: str, started: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spelled = [setting.format(old=started) for setting in settings]
    assert main(["configs/base.yaml", *with_overrides(SMALL, *SHORT, *spelled, f"output={tmp_path / 'run'}")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("train_v2: error: ") and message in error
