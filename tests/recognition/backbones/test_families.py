"""Weights of other trainers and other families: taken out, turned around, or refused with a name."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from recognition.backbones import build_backbone
from recognition.backbones.families import FAMILIES, guess_family
from recognition.backbones.weights import load_backbone, load_weights
from recognition.errors import CheckpointError

FOREIGN = {
    "torchvision's ResNet": ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"),
    "a ViT with a class token, as in timm": ("cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight"),
    "facenet-pytorch's InceptionResnetV1": ("conv2d_1a.conv.weight", "last_linear.weight"),
    "IR with bottlenecks (152 or 200 layers)": ("input_layer.0.weight", "body.0.res_layer.0.weight")
    + ("body.0.res_layer.7.weight",),
    "torchvision's MobileNetV2": ("features.0.0.weight", "features.18.0.weight", "classifier.1.weight"),
    "CVLface's ViT with KP-RPE": ("patch_embed.proj.weight", "pos_embed", "feature.0.weight")
    + ("blocks.0.attn.rpe_k.lookup_table_weight",),
}
OWN = {
    "insightface's IResNet": ("r18", "tiny", "medium"),
    "insightface's MobileFaceNet": ("mbf", "mbf_large"),
    "insightface's ViT": ("vit_t", "vit_xs"),
    "IR of AdaFace, TFace or CVLface": ("ir_18", "ir_101"),
    "IR-SE of AdaFace, TFace or CVLface": ("ir_se_50",),
    "a MobileNetV2 with a neck": ("mobilenet_v2",),
}


@pytest.mark.parametrize("family", FOREIGN)
def test_weights_of_another_family_are_refused_with_its_name(family: str, tmp_path: Path) -> None:
    torch.save({key: torch.zeros(2, 2) for key in FOREIGN[family]}, tmp_path / "w.pt")
    for refuse in (load_backbone, lambda path: load_weights(build_backbone("tiny"), path)):
        with pytest.raises(CheckpointError) as hit:
            refuse(tmp_path / "w.pt")
        assert f"look like {family}" in str(hit.value)
        assert "\n" not in str(hit.value)


@pytest.mark.parametrize("family", OWN)
def test_each_network_here_is_of_its_family(family: str) -> None:
    for network in OWN[family]:
        with torch.device("meta"):
            assert guess_family(build_backbone(network).state_dict().keys()) == family


def test_no_family_is_unreachable() -> None:
    assert {family.name for family in FAMILIES} >= set(FOREIGN) | set(OWN)
    assert guess_family(["something"]) is None


def test_weights_of_another_network_are_named_exactly(tmp_path: Path) -> None:
    torch.save(build_backbone("vit_xs", embedding_size=8, image_size=126).state_dict(), tmp_path / "w.pt")
    expected = r"they are those of backbone.network=vit_xs backbone.embedding_size=8 data.image_size=126"
    for network, options in (("tiny", {}), ("vit_xs", {"image_size": 112}), ("vit_xs", {"embedding_size": 16})):
        module = build_backbone(network, **({"embedding_size": 8, "image_size": 126} | options))
        with pytest.raises(CheckpointError, match=expected):
            load_weights(module, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"does not fit network 'tiny': .*; {expected}"):
        load_backbone(tmp_path / "w.pt", "tiny")


@pytest.mark.parametrize("holder", ["model.", "net.", "model.net.", "module.net."])
def test_the_network_inside_another_trainers_model_is_found(holder: str, tmp_path: Path) -> None:
    module = build_backbone("ir_18", embedding_size=8, image_size=32)
    state = {holder + key: tensor for key, tensor in module.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": {**state, "aligner.weight": torch.zeros(3)}}, tmp_path / "w.pt")
    model = load_backbone(tmp_path / "w.pt")
    assert (model.architecture.network, model.architecture.embedding_size) == ("ir_18", 8)
    assert torch.equal(model.module.input_layer[0].weight, module.input_layer[0].weight)


def test_adafaces_checkpoints_take_bgr_and_are_turned_around(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = build_backbone("ir_18", embedding_size=8, image_size=32).double().eval()
    state = {f"model.{key}": tensor for key, tensor in module.state_dict().items()}
    torch.save({"state_dict": {**state, "head.kernel": torch.zeros(8, 3)}}, tmp_path / "w.ckpt")
    with caplog.at_level(logging.WARNING):
        ours = load_backbone(tmp_path / "w.ckpt").module
    assert "AdaFace's trainer, whose networks take BGR" in caplog.text
    rgb = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours.double()(rgb), module(rgb.flip(1)))
