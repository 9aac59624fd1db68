"""What a model says of itself: the JSON both ways, hostile JSON, hostile files, and what must agree."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from recognition.backbones import BACKBONES, build_backbone
from recognition.backbones.architecture import Architecture
from recognition.backbones.matching import build_empty, find_misfit
from recognition.backbones.metadata import KEY, MAX_CHARACTERS, ModelMetadata, weights_fingerprint
from recognition.backbones.weights import load_backbone, load_weights, save_backbone, save_model
from recognition.config.schema import BackboneConfig
from recognition.embedding.embedder import Embedder
from recognition.errors import CheckpointError, ConfigError, DataError
from tests.helpers.networks import OTHER_SIZE
from tests.helpers.registries import entered

TINY = Architecture("tiny", 16, 48)
ABOUT = ModelMetadata(
    TINY,
    dataset={"images": 132, "classes": 11, "index": "8f0c1d2e"},
    config={"optim.lr": 0.1, "head.margins": [1.0, 0.5, 0.0], "head.block_size": None, "log.tensorboard": True},
    revision="v1-3-gabc-dirty",
    metrics={"step": 22, "accuracy": 0.75, "best": {"lfw": 0.75}},
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder without a config.yaml, with both files of a tiny network for images of 48 pixels."""
    torch.manual_seed(0)
    save_model(TINY.build(), tmp_path / "run", ABOUT)
    return tmp_path / "run"


def text_in(folder: Path) -> str:
    with safe_open(folder / "model.safetensors", framework="pt") as handle:
        assert list(handle.metadata()) == ["arcshard"]
        return handle.metadata()[KEY]


def rewrite(folder: Path, **changes: Any) -> Path:
    """Write the file again with other values in its metadata; a value of `...` is left out."""
    path = folder / "model.safetensors"
    values = {**json.loads(text_in(folder)), **changes}
    with safe_open(path, framework="pt") as handle:
        state = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
    kept = {name: value for name, value in values.items() if value is not ...}
    save_file(state, str(path), metadata={KEY: json.dumps(kept)})
    return path


def test_the_json_is_sorted_and_comes_back_equal(run: Path) -> None:
    text = text_in(run)
    values = json.loads(text)
    assert text == json.dumps(values, sort_keys=True)
    found = ModelMetadata.from_json(text, place="here")
    assert dataclasses.replace(found, fingerprint=None) == ABOUT
    assert {name: values[name] for name in ("network", "embedding_size", "image_size", "color", "scaling")} == {
        "network": "tiny",
        "embedding_size": 16,
        "image_size": 48,
        "color": "RGB",
        "scaling": {"mean": 127.5, "std": 127.5},
    }
    newer = json.dumps({**values, "a later version's key": [1]})
    assert ModelMetadata.from_json(newer, place="here") == found


def test_both_files_and_the_folder_are_the_same_model(run: Path, tmp_path: Path) -> None:
    described, plain = load_backbone(run / "model.safetensors"), load_backbone(run / "model.pt")
    assert load_backbone(run).file == run / "model.safetensors"
    assert described.facts.fingerprint == plain.facts.fingerprint == weights_fingerprint(plain.module.state_dict())
    assert described.architecture == TINY
    assert (described.image_size, plain.image_size) == (48, None), "keys leave the size open"
    assert described.facts.as_json()["dataset_fingerprint"] == ABOUT.dataset
    for key, tensor in described.module.state_dict().items():
        assert torch.equal(tensor, plain.module.state_dict()[key]), key
        assert tensor.is_contiguous()
    other = tmp_path / "other.pt"
    torch.manual_seed(1)
    save_backbone(TINY.build(), other)
    assert load_backbone(other).facts.fingerprint != plain.facts.fingerprint


def test_equal_weights_give_equal_bytes(run: Path, tmp_path: Path) -> None:
    model = load_backbone(run).module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_model(model, tmp_path / "again", ABOUT)
    names = ("model.safetensors", "model.pt")
    assert sorted(os.listdir(tmp_path / "again")) == sorted(names)
    assert (tmp_path / "again" / names[0]).read_bytes() == (run / names[0]).read_bytes()


def test_neither_file_is_ever_half_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[str] = []
    replace = os.replace

    def note(source: Path, target: Path) -> None:
        renamed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    save_model(TINY.build(), tmp_path / "new", ABOUT)
    assert renamed == ["model.safetensors", "model.pt"], "model.pt says that a run has ended"
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(DataError, match="cannot be written"):
        save_model(TINY.build(), run, ABOUT)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("r100", "r200", "vit_h"))) for name in BACKBONES],
)
def test_every_network_comes_back_from_its_metadata(network: str) -> None:
    architecture = Architecture.of(BackboneConfig(network=network, embedding_size=256), OTHER_SIZE)
    state = build_empty(architecture).state_dict()
    found = ModelMetadata.from_json(
        dataclasses.replace(ABOUT, architecture=architecture, fingerprint="0" * 64).to_json(), place="here"
    )
    assert found.architecture == architecture
    assert find_misfit(build_empty(found.architecture).state_dict(), state) == ""


class Odd(nn.Module):
    """A network that no key gives away, with options of its own."""

    def __init__(
        self, *, embedding_size: int = 512, dropout: float = 0.0, image_size: int = 112, depth: int = 1, kind: str = "a"
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3 * image_size**2, embedding_size) for _ in range(depth))
        self.kind = kind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return sum((layer(images.flatten(1)) for layer in self.layers), torch.zeros(()))


@pytest.fixture
def odd() -> Iterator[str]:
    with entered(BACKBONES, "odd", f"{__name__}:Odd"):
        BACKBONES._entries["odd"] = Odd  # this module has no name that could be imported
        yield "odd"


@dataclasses.dataclass(frozen=True)
class OddConfig(BackboneConfig):
    depth: int = 1
    kind: str | None = None


def test_a_networks_own_options_travel_from_config_to_file_and_back(odd: str, tmp_path: Path) -> None:
    asked = Architecture.of(OddConfig(network=odd, embedding_size=4, depth=3), 16)
    assert asked.options == {"depth": 3}, "sync_bn and dropout are no options of it; None is left to its builder"
    save_model(asked.build(), tmp_path, ModelMetadata(asked))
    model = load_backbone(tmp_path)
    assert model.architecture == asked
    assert isinstance(model.module, Odd)
    assert len(model.module.layers) == 3
    assert Embedder.load(tmp_path).embed(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 4)
    with pytest.raises(ConfigError, match=r"backbone.network 'tiny': has no option 'depth'; it has none"):
        build_backbone("tiny", depth=3)
    for changes in (
        {"options": {"depth": 2}},
        {"options": {"depth": "x"}},
        {"options": {"width": 2}},
        {"network": "even"},
    ):
        with pytest.raises(CheckpointError, match=r"model.safetensors: its metadata says backbone.network=\w+ ") as hit:
            load_backbone(rewrite(tmp_path, **changes))
        assert "\n" not in str(hit.value)
        rewrite(tmp_path, options={"depth": 3}, network=odd)


def test_what_a_file_says_and_what_is_asked_must_agree(run: Path) -> None:
    assert load_backbone(run, "tiny").architecture == TINY
    with pytest.raises(CheckpointError, match="metadata says network 'tiny'; asked for 'r18'; leave the network out"):
        load_backbone(run, "r18")
    assert load_weights(TINY.build(), run, asked=TINY) == 122 - 7
    asked = Architecture("tiny", 16, 64)  # of the same shapes
    expected = "metadata says data.image_size=48; expected data.image_size=64, as the config asks; make them agree"
    with pytest.raises(CheckpointError, match=expected):
        load_weights(asked.build(), run, asked=asked)
    embed = Embedder.load(run).embed
    assert embed(np.zeros((1, 48, 48, 3), np.uint8)).shape == (1, 16)
    with pytest.raises(CheckpointError, match="takes images of 48 x 48 pixels; found 64 x 64; align to its size"):
        embed(np.zeros((1, 64, 64, 3), np.uint8))  # the network itself would take them


def test_a_config_beside_old_weights_is_believed(run: Path) -> None:
    (run / "model.safetensors").unlink()
    config = run / "config.yaml"
    config.write_text("data: {image_size: 48}\nbackbone: {network: tiny, embedding_size: 16}\n")
    for path in (run, run / "model.pt"):
        assert load_backbone(path).architecture == TINY
    (run / "model.pt").rename(run / "backbone.pth")
    assert load_backbone(run / "backbone.pth").told_by is None, "no file of a run"
    (run / "backbone.pth").rename(run / "model.pt")
    config.write_text("data: {image_size: 48}\nbackbone: {network: tiny, embedding_size: 32}\n")
    with pytest.raises(
        CheckpointError, match=r"config.yaml says .*embedding_size=32.*, which the weights do not fit: "
    ):
        load_backbone(run)
    config.write_text("theirs: 1\n")
    with pytest.raises(CheckpointError, match=r"the config.yaml beside it is none of ours \(.*theirs: unknown key"):
        load_backbone(run)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"format": 2}, "metadata of format 2; expected 1; use the version that wrote it"),
    ({"format": True}, "metadata of format True"),
    ({"network": ...}, "metadata without 'network'"),
    ({"network": 3}, "metadata 'network' is 3"),
    ({"network": ""}, "metadata 'network' is ''"),
    ({"network": "n" * 65}, "expected a network's name"),
    ({"network": "r\x1b[2J"}, "short texts"),
    ({"embedding_size": 0}, "expected a whole number from 1 to 65,536"),
    ({"embedding_size": 16.0}, "expected a whole number from 1 to 65,536"),
    ({"embedding_size": True}, "metadata 'embedding_size' is True"),
    ({"image_size": 10**9}, "expected a whole number from 16 to 4,096"),
    ({"options": []}, "metadata 'options' is "),
    ({"options": {"depth": 10**9}}, "expected names with numbers of at most 65,536 or texts"),
    ({"options": {"depth": None}}, "metadata 'options' is "),
    ({"fingerprint": None}, "expected 64 hexadecimal digits"),
    ({"fingerprint": "0" * 64}, "its tensors are not those that its metadata names"),
    ({"color": "BGR"}, r"takes BGR as \(x - 127.5\) / 127.5; expected RGB as"),
    ({"scaling": {"mean": 0, "std": 255}}, r"takes RGB as \(x - 0\) / 255; expected RGB as"),
    ({"scaling": {"mean": 127.5, "std": 0}}, "expected a number above 0"),
    ({"scaling": 3}, "metadata 'scaling' is 3"),
    ({"dataset": {"images": [1]}}, "metadata 'dataset' is "),
    ({"config": {"a": {"b": {"c": 1}}}}, "no mapping of at most 3 levels"),
    ({"metrics": {"best": {"lfw": "high"}}}, "metadata 'metrics' is "),
    ({"metrics": {"step": 10**400}}, "metadata 'metrics' is "),
    ({"revision": "x" * 5000}, "short texts"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_metadata_that_no_run_wrote_is_refused_in_one_line(run: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as hit:
        load_backbone(rewrite(run, **changes))
    assert str(hit.value).startswith(f"{run}/model.safetensors: ")
    assert str(hit.value).isprintable()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "9" * 5000, " " * (MAX_CHARACTERS + 1)],
)
def test_what_is_no_json_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"here: .*metadata") as hit:
        ModelMetadata.from_json(text, place="here")
    assert str(hit.value).isprintable()
    assert len(str(hit.value)) < 300


def test_damaged_and_foreign_safetensors_end_in_one_line(run: Path) -> None:
    path = run / "model.safetensors"
    whole = path.read_bytes()
    huge = struct.pack("<Q", 1 << 40) + whole[8:]
    long = struct.pack("<Q", (1 << 23) + 1) + b" " * ((1 << 23) + 1)
    for content in (
        b"",
        b"1234567",
        bytes(999),
        huge,
        long,
        whole[:200],
        whole[:-1],
        whole + b"0",
        (run / "model.pt").read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"model.safetensors: (cannot be read as weights|holds no tensor)"
        ) as hit:
            load_backbone(path)
        assert str(hit.value).isprintable()
    for content in (huge, long):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"its header claims [\d,]+ bytes"):  # before the library sees it
            load_backbone(path)
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(CheckpointError, match="its tensors are not those that its metadata names; it was altered"):
        load_backbone(path)
    save_file({"fc.weight": torch.zeros(3)}, str(path))
    with pytest.raises(CheckpointError, match="are of no kind known here; expected those of one of"):
        load_backbone(path)
    save_file({}, str(path))
    with pytest.raises(CheckpointError, match="holds no tensor"):
        load_backbone(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"not found; expected a run folder or a .safetensors"):
        load_backbone(path)


def test_tensors_of_any_type_are_fingerprinted() -> None:
    state = {
        "a": torch.zeros(2, 3),
        "b": torch.tensor(3),
        "c": torch.zeros(2, dtype=torch.bfloat16),
        "d": torch.zeros(0),
    }
    found = weights_fingerprint(state)
    assert found == weights_fingerprint(dict(reversed(state.items())))
    changed: list[dict[str, torch.Tensor]] = [
        {**state, "a": torch.zeros(3, 2)},
        {**state, "a": torch.zeros(2, 3, dtype=torch.float64)[:, :3].half()},
        {**state, "b": torch.tensor(4)},
        {**state, "c": torch.ones(2, dtype=torch.bfloat16)},
        {name: state[name] for name in "abc"},
    ]
    assert len({found, *map(weights_fingerprint, changed)}) == 6
