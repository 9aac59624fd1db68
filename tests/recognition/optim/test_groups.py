"""Optimizers equal torch's plain ones, and a refused step moves nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from recognition.backbones import BACKBONES, build_backbone
from recognition.backbones.architecture import layers_of
from recognition.config.loader import load_config
from recognition.config.schema import OptimConfig
from recognition.errors import ConfigError
from recognition.optim.groups import make_optimizer, set_lr, step_unless
from recognition.plan import make_plan

YES, NO = torch.tensor(1.0), torch.tensor(0.0)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.PReLU(6), nn.Linear(6, 2))


def _fill_grads(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_equal_the_plain_optimizer(name: str) -> None:
    ours, theirs = _model(), _model()
    config = OptimConfig(optimizer=name, lr=0.1, momentum=0.9, weight_decay=0.05)  # type: ignore[arg-type]
    optimizer = make_optimizer(ours.parameters(), config, decay_all=True)
    if name == "sgd":
        plain: torch.optim.Optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    else:
        plain = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.05)
    for step in range(5):
        _fill_grads(ours, step)
        _fill_grads(theirs, step)
        step_unless(optimizer, NO)
        plain.step()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_refused_step_leaves_parameters_and_state_bit_identical(name: str) -> None:
    refusing, skipping = _model(), _model()
    config = OptimConfig(optimizer=name, lr=0.1)  # type: ignore[arg-type]
    first = make_optimizer(refusing.parameters(), config, decay_all=True)
    second = make_optimizer(skipping.parameters(), config, decay_all=True)
    for step in range(6):
        refused = step in (0, 3)  # the very first step too: torch's own buffer would be uninitialized there
        _fill_grads(refusing, step)
        if refused:
            next(refusing.parameters()).grad.fill_(float("nan"))
            before = copy.deepcopy(refusing.state_dict())
            step_unless(first, YES)
            for key, value in refusing.state_dict().items():
                assert torch.equal(value, before[key])
            continue
        _fill_grads(skipping, step)
        step_unless(first, NO)
        step_unless(second, NO)
    for a, b in zip(refusing.parameters(), skipping.parameters()):
        assert torch.equal(a, b)
        for key, value in first.state[a].items():
            assert torch.equal(value, second.state[b][key])


def test_vectors_are_spared_from_weight_decay_when_asked() -> None:
    model = _model()
    optimizer = make_optimizer(model.parameters(), OptimConfig(weight_decay=0.1), decay_all=False)
    decayed = {p for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
    assert decayed == {p for p in model.parameters() if p.ndim > 1}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_set_lr_reaches_every_group() -> None:
    optimizer = make_optimizer(_model().parameters(), OptimConfig(), decay_all=False)
    set_lr(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


def test_set_lr_keeps_the_factor_of_the_centers() -> None:
    centers = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = make_optimizer(_model().parameters(), OptimConfig(), decay_all=True, centers=[centers], lr_factor=10.0)
    set_lr(optimizer, 0.25)
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 5.0]
    assert optimizer.param_groups[1]["params"] == [centers]


def test_an_optimizer_that_cannot_decide_is_asked_only_if_the_step_counts() -> None:
    for is_fused in (False, True):
        model = _model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=is_fused)
        _fill_grads(model, 0)
        before = copy.deepcopy(model.state_dict())
        step_unless(optimizer, YES, grad_scale=torch.tensor(4.0))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        step_unless(optimizer, NO, grad_scale=torch.tensor(4.0))
        other = _model()
        _fill_grads(other, 0)
        torch.optim.SGD(other.parameters(), lr=0.1 / 4).step()
        for found, expected in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(found, expected)
        assert not hasattr(optimizer, "grad_scale"), "GradScaler would take it for its own"


def test_each_layer_of_a_vit_gets_its_share_of_the_rate() -> None:
    module = build_backbone("vit_xs", embedding_size=16, image_size=28)
    layers = layers_of(module, "vit_xs")
    config = OptimConfig(optimizer="adamw", weight_decay=0.1, layer_decay=0.5)
    optimizer = make_optimizer(module.parameters(), config, decay_all=False, layers=layers)
    set_lr(optimizer, 0.8)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"patch_embed.proj.weight": 0.025, "pos_embed": 0.025, "blocks.0.mlp.fc1.bias": 0.05}
    expected |= {"blocks.3.norm1.weight": 0.4, "norm.weight": 0.8, "feature.0.weight": 0.8}
    named = dict(module.named_parameters())
    assert {name: rates[named[name]] for name in expected} == pytest.approx(expected)
    assert rates.keys() == {p for p in named.values() if p.requires_grad}
    decayed = {p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {p for p in rates if p.ndim > 1}


@pytest.mark.parametrize("name", [name for name in BACKBONES if name.startswith("vit_")])
def test_the_layers_of_a_vit_are_all_of_it(name: str) -> None:
    with torch.device("meta"):
        module = build_backbone(name)
    layers = layers_of(module, name)
    assert len(layers) == len(module.blocks) + 2  # type: ignore[arg-type]
    assert sorted(id(p) for layer in layers for p in layer) == sorted(id(p) for p in module.parameters())


def test_a_network_without_layers_is_refused_in_one_line() -> None:
    message = r"optim.layer_decay: would be ignored by network 'tiny', which has no layers"
    with pytest.raises(ConfigError, match=message):
        make_plan(load_config("configs/demo", ["optim.layer_decay=0.7"]), world_size=1, num_images=999, num_classes=9)
