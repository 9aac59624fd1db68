"""The networks: keys, shapes and outputs as arcface_torch's, precision, sizes, errors."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.formula_weights import fill_by_formula, relative_difference, waves
from recognition.backbones import BACKBONES, build_backbone
from recognition.errors import ConfigError
from tests.helpers.places import GOLDEN


@pytest.mark.parametrize("network", ["r18", "r50", "r100", "mbf"])
def test_keys_and_shapes_are_those_of_arcface_torch(network: str) -> None:
    with torch.device("meta"):
        ours = build_backbone(network)
    expected = json.loads((GOLDEN / "arcface_torch_keys" / f"{network}.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in ours.state_dict().items()} == expected


@pytest.mark.parametrize("network", ["r18", "mbf"])
def test_outputs_are_those_recorded_from_arcface_torch(network: str) -> None:
    ours = build_backbone(network).eval()
    fill_by_formula(ours)
    expected = torch.tensor(json.loads((GOLDEN / "arcface_torch_outputs" / f"{network}.json").read_text()))
    with torch.no_grad():
        output = ours(waves((2, 3, 112, 112), phase=1.0))
    assert relative_difference(output, expected) <= 1e-5


@pytest.mark.parametrize("network", BACKBONES)
def test_every_network_builds_on_meta_(network: str) -> None:
    with torch.device("meta"):
        module = build_backbone(network, embedding_size=64, dropout=0.4)
        assert module.train()(torch.empty(2, 3, 112, 112)).shape == (2, 64)
    assert all(parameter.is_meta for parameter in module.parameters())


@pytest.mark.parametrize(("network", "units"), [("r18", 8), ("r34", 16), ("r50", 24), ("r100", 49), ("r200", 98)])
def test_depth_follows_the_name(network: str, units: int) -> None:
    with torch.device("meta"):
        keys = build_backbone(network).state_dict()
    assert sum(key.endswith("conv2.weight") for key in keys) == units


@pytest.mark.parametrize("network", ["tiny", "mbf", "r18"])
def test_last_layers_stay_float32_under_autocast(network: str) -> None:
    torch.manual_seed(0)
    module = build_backbone(network, embedding_size=32).train()
    seen: list[torch.dtype] = []
    linear = next(part for part in module.modules() if isinstance(part, torch.nn.Linear))
    linear.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        output = module(torch.randn(2, 3, 112, 112))
        assert torch.is_autocast_enabled("cpu")
    assert output.dtype == torch.float32
    assert seen == [torch.float32, torch.float32]
    assert not torch.is_autocast_enabled("cpu")


def test_a_network_in_float64_stays_in_float64() -> None:
    assert build_backbone("tiny").double()(torch.randn(2, 3, 112, 112).double()).dtype == torch.float64


def test_gain_of_the_last_batch_norm_is_fixed_at_one() -> None:
    for network in ("r18", "tiny"):
        module = build_backbone(network)
        assert not module.features.weight.requires_grad
        assert torch.equal(module.features.weight, torch.ones(512))


def test_first_weights_are_drawn_as_published() -> None:
    torch.manual_seed(0)
    assert build_backbone("r18").layer4[1].conv1.weight.std().item() == pytest.approx(0.1, rel=0.01)
    last = build_backbone("mbf").conv_sep.layers[0].weight
    assert last.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)


def test_tiny_is_tiny_and_trains_in_both_memory_formats() -> None:
    torch.manual_seed(0)
    module = build_backbone("tiny", embedding_size=128)
    assert sum(weight.numel() for weight in module.parameters() if weight.ndim == 4) == 306_352
    assert module.fc.weight.numel() == 262_144
    gradients = []
    images = torch.randn(4, 3, 112, 112)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        module.zero_grad()
        module.to(memory_format=memory_format)(images.contiguous(memory_format=memory_format)).square().sum().backward()
        gradients.append(module.layer1[0].downsample[0].weight.grad.clone())
    assert relative_difference(gradients[1], gradients[0]) < 1e-3


@pytest.mark.parametrize("image_size", [96, 100, 128])
@pytest.mark.parametrize("network", ["r18", "mbf", "tiny"])
def test_image_sizes_other_than_112_fit(network: str, image_size: int) -> None:
    with torch.device("meta"):
        module = build_backbone(network, image_size=image_size)
        assert module(torch.empty(2, 3, image_size, image_size)).shape == (2, 512)


def test_dropout_acts_in_training_only() -> None:
    for network in ("tiny", "mbf"):
        torch.manual_seed(0)
        module = build_backbone(network, dropout=0.5)
        images = torch.randn(4, 3, 112, 112)
        assert not torch.equal(module(images), module(images))
        module.eval()
        assert torch.equal(module(images), module(images))


def test_wrong_names_and_sizes_are_config_errors() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone.network 'r51'; did you mean 'r50'\?"):
        build_backbone("r51")
    with pytest.raises(ConfigError, match=r"embedding_size 0 and image_size 112; expected at least 1 and 16"):
        build_backbone("tiny", embedding_size=0)
    with pytest.raises(ConfigError, match=r"backbone.dropout: 1.0 is outside \[0, 1\)"):
        build_backbone("tiny", dropout=1.0)
