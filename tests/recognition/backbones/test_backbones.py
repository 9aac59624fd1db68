"""The networks: keys, shapes and outputs as arcface_torch's, precision, sizes, errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.formula_weights import fill_by_formula, relative_difference, waves
from recognition.backbones import BACKBONES, build_backbone
from recognition.backbones.profile import count_parameters, forward_flops
from recognition.backbones.weights import load_backbone
from recognition.errors import CheckpointError, ConfigError
from tests.helpers.networks import OTHER_SIZE, TWINS
from tests.helpers.places import GOLDEN, ROOT

PEERS = {"arcface_torch": ("r", "mbf", "vit_"), "adaface": ("ir_",)}
COSTS = json.loads((GOLDEN / "network_costs.json").read_text())
OUR_OWN = ("tiny", "small", "medium", "vit_xs")


def recorded(network: str, kind: str) -> Path:
    """Return the file of what was recorded from the module of `network`'s peer."""
    peer = next(peer for peer, starts in PEERS.items() if network.startswith(starts))
    return GOLDEN / f"{peer}_{kind}" / f"{TWINS.get(network, network)}.json"


@pytest.mark.parametrize("network", [name for name in BACKBONES if name not in (*OUR_OWN, "mobilenet_v2")])
def test_keys_and_shapes_are_those_of_the_peer(network: str) -> None:
    with torch.device("meta"):
        ours = build_backbone(network)
    expected = json.loads(recorded(network, "keys").read_text())
    assert {key: list(tensor.shape) for key, tensor in ours.state_dict().items()} == expected


def test_mobilenets_keys_and_shapes_are_torchvisions_but_for_the_neck() -> None:
    with torch.device("meta"):
        ours = build_backbone("mobilenet_v2")
    expected = json.loads((GOLDEN / "torchvision_keys" / "mobilenet_v2.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in ours.features.state_dict().items()} == expected
    assert {key.partition(".")[0] for key in ours.state_dict()} == {"features", "neck"}


@pytest.mark.parametrize("network", [name for name in BACKBONES if name not in OUR_OWN])
def test_parameters_and_macs_are_those_of_the_peer(network: str) -> None:
    with torch.device("meta"):
        ours = build_backbone(network)
    part = ours.features if network == "mobilenet_v2" else ours
    assert COSTS[network] == {"parameters": count_parameters(part), "macs": forward_flops(part, 112) // 2}


@pytest.mark.parametrize("network", ["r18", "mbf", "ir_18", "vit_t"])
def test_outputs_are_those_recorded_from_the_peer(network: str) -> None:
    ours = build_backbone(network).eval()
    fill_by_formula(ours)
    expected = torch.tensor(json.loads(recorded(network, "outputs").read_text()))
    with torch.no_grad():
        output = ours(waves((2, 3, 112, 112), phase=1.0))
    assert relative_difference(output, expected) <= 1e-5


@pytest.mark.parametrize("network", ["small", "medium", "vit_xs", "mobilenet_v2", "ir_se_50"])
def test_a_whole_checkpoint_with_prefixes_loads_strictly(network: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        state = build_backbone(network, embedding_size=8, image_size=OTHER_SIZE).state_dict()
    whole = {f"module.{key}": torch.zeros(tensor.shape, dtype=tensor.dtype) for key, tensor in state.items()}
    torch.save({"epoch": 2, "state_dict_backbone": whole}, tmp_path / "checkpoint_gpu_0.pt")
    model = load_backbone(tmp_path / "checkpoint_gpu_0.pt")
    assert (model.architecture.network, model.architecture.embedding_size) == (network, 8)
    del whole[next(iter(whole))]
    torch.save({"state_dict_backbone": whole}, tmp_path / "checkpoint_gpu_0.pt")
    with pytest.raises(CheckpointError, match="1 keys missing"):
        load_backbone(tmp_path / "checkpoint_gpu_0.pt", network)


@pytest.mark.slow
def test_the_page_of_networks_states_what_they_cost() -> None:
    page = (ROOT / "docs" / "networks.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+ \| [\d,]+ M) \|", page, re.MULTILINE))
    assert list(rows) == list(BACKBONES)
    for network, row in rows.items():
        with torch.device("meta"):
            module = build_backbone(network)
        assert row == f"{count_parameters(module):,} | {forward_flops(module, 112) / 2e6:,.0f} M"


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


@pytest.mark.parametrize("network", ["tiny", "mbf", "r18", "ir_18", "vit_xs", "mobilenet_v2"])
def test_last_layers_stay_float32_under_autocast(network: str) -> None:
    torch.manual_seed(0)
    module = build_backbone(network, embedding_size=32).train()
    seen: list[torch.dtype] = []
    linear = [part for part in module.modules() if isinstance(part, torch.nn.Linear)][-1]
    linear.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        output = module(torch.randn(2, 3, 112, 112))
        assert torch.is_autocast_enabled("cpu")
    assert output.dtype == torch.float32
    assert seen == [torch.float32, torch.float32]
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("network", ["tiny", "vit_xs", "mobilenet_v2"])
def test_a_network_in_float64_stays_in_float64(network: str) -> None:
    assert build_backbone(network).double()(torch.randn(2, 3, 112, 112).double()).dtype == torch.float64


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
    for network in ("tiny", "mbf", "vit_xs", "mobilenet_v2"):
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
    with pytest.raises(ConfigError, match=r"backbone.network 'r18': has no option 'mask_ratio'; it has none"):
        build_backbone("r18", mask_ratio=0.1)
