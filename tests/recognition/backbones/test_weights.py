"""Weight files: inference of the network, strictness, foreign wrappers, hostile and damaged input."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from recognition.backbones import BACKBONES, build_backbone
from recognition.backbones.architecture import Architecture
from recognition.backbones.matching import infer_architecture
from recognition.backbones.weights import check_weights, load_backbone, load_weights, read_state_dict, save_backbone
from recognition.errors import CheckpointError
from tests.helpers.networks import OTHER_SIZE, TWINS


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)
    module = build_backbone("tiny", embedding_size=16)
    save_backbone(module, tmp_path / "run" / "model.pt")
    return module, tmp_path / "run" / "model.pt"


@pytest.mark.parametrize("network", BACKBONES)
@pytest.mark.parametrize("image_size", [112, OTHER_SIZE])
def test_every_network_is_known_by_its_keys_and_shapes(network: str, image_size: int) -> None:
    with torch.device("meta"):
        state = build_backbone(network, embedding_size=96, image_size=image_size).state_dict()
    found = infer_architecture(state, place="here")
    assert (found.network, found.embedding_size) == (TWINS.get(network, network), 96)


@pytest.mark.parametrize("network", ["tiny", "mbf"])
def test_saved_and_loaded_is_the_same_function(tmp_path: Path, network: str) -> None:
    torch.manual_seed(0)
    module = build_backbone(network, embedding_size=16)
    images = torch.randn(3, 3, 112, 112)
    module(images)  # moves the running statistics
    module.to(memory_format=torch.channels_last)
    save_backbone(module, tmp_path / "model.pt")
    model = load_backbone(tmp_path / "model.pt")
    loaded = model.module
    assert model.architecture.network == network
    assert not loaded.training
    for key, tensor in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
        assert loaded.state_dict()[key].is_contiguous()
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in module.parameters()]
    torch.testing.assert_close(loaded(images), module.eval()(images))


def test_a_run_folder_means_its_model(tiny: tuple[torch.nn.Module, Path]) -> None:
    module, path = tiny
    model = load_backbone(path.parent)
    assert model.architecture.network == "tiny"
    assert torch.equal(model.module.fc.weight, module.fc.weight)


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict_backbone", "state_dict"])
def test_wrappers_of_other_programs_are_taken_off(
    tiny: tuple[torch.nn.Module, Path], tmp_path: Path, prefix: str, wrapper: str | None
) -> None:
    state: dict[str, Any] = {prefix + key: tensor.half() for key, tensor in tiny[0].state_dict().items()}
    if wrapper:
        state = {"epoch": 3, "global_step": 7, wrapper: state, "state_lr_scheduler": {"last_lr": [0.1]}}
    torch.save(state, tmp_path / "theirs.pth")
    model = load_backbone(tmp_path / "theirs.pth")
    loaded = model.module
    assert model.architecture.network == "tiny"
    assert loaded.fc.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.fc.weight, tiny[0].fc.weight, atol=1e-3, rtol=1e-3)


def test_saving_writes_float32_and_leaves_nothing_beside(tmp_path: Path) -> None:
    save_backbone(build_backbone("tiny", embedding_size=16).bfloat16(), tmp_path / "model.pt")
    state = read_state_dict(tmp_path / "model.pt")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_misfits_are_counted_and_named(tiny: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    state = dict(tiny[0].state_dict())
    del state["bn1.weight"]
    state["extra"] = torch.zeros(1)
    state["layer1.0.conv1.weight"] = torch.zeros(16, 16, 1, 1)
    torch.save(state, tmp_path / "w.pt")
    expected = (
        r"w.pt: does not fit network 'tiny': 1 keys missing \(bn1.weight\), 1 keys unexpected \(extra\), "
        r"1 keys of another shape \(layer1.0.conv1.weight \[16, 16, 1, 1\] instead of \[16, 16, 3, 3\]\)"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_backbone(tmp_path / "w.pt", "tiny")
    looks = r"w.pt: its 115 keys, the first of them 'conv1.weight', look like insightface's IResNet; expected those of"
    with pytest.raises(CheckpointError, match=looks):
        load_backbone(tmp_path / "w.pt")


def test_weights_of_another_network_are_refused_with_five_keys(tiny: tuple[torch.nn.Module, Path]) -> None:
    target = build_backbone("mbf", embedding_size=16)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit the network: \d+ keys missing \((\S+ ){5}\.\.\.\)"):
        load_weights(target, tiny[1])
    assert all(torch.equal(tensor, before[key]) for key, tensor in target.state_dict().items())
    own = build_backbone("tiny", embedding_size=16)
    load_weights(own, tiny[1].parent)
    assert torch.equal(own.fc.weight, tiny[0].fc.weight)


class Malice:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_a_pickle_that_wants_to_run_code_runs_nothing(tmp_path: Path, protocol: int | None) -> None:
    content = {"fc.weight": Malice(tmp_path / "mark")}
    if protocol is None:
        torch.save(content, tmp_path / "evil.pth")
    else:
        (tmp_path / "evil.pth").write_bytes(pickle.dumps(content, protocol))
    reason = r"its pickle asks for \w+\.mkdir"
    with pytest.raises(CheckpointError, match=rf"evil.pth: cannot be read as weights \({reason}") as hit:
        load_backbone(tmp_path / "evil.pth")
    assert "\n" not in str(hit.value)
    assert not (tmp_path / "mark").exists()


def test_a_whole_pickled_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"\(its pickle asks for torch.nn.modules.linear.Linear\)"):
        load_backbone(tmp_path / "module.pt")


def test_damaged_and_foreign_files_end_in_one_line(tiny: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    whole = tiny[1].read_bytes()
    file = tmp_path / "damaged.pt"
    foreign = [b"", b"hello\n", b"\x80\x02}q\x00.", bytes(999)]
    for content in [*foreign, whole[:100], whole[: len(whole) // 2], whole[:-10]]:
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged.pt: (cannot be read|holds a)") as hit:
            load_backbone(file)
        assert "\n" not in str(hit.value)
    for content in ([1, 2], {}, {"a": 1}, torch.zeros(3)):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=r"damaged.pt: holds a \w+ that is no state dict"):
            load_backbone(file)


def test_missing_files_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: not found; expected a run folder or a .safetensors"):
        load_backbone(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no model.pt and no model.safetensors; expected a run folder"):
        load_backbone(tmp_path)


def _saved(tmp_path: Path, state: dict[str, Any]) -> Path:
    torch.save(state, tmp_path / "given.pth")
    return tmp_path / "given.pth"


def _same(path: Path, module: torch.nn.Module) -> None:
    loaded = load_backbone(path).module.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in module.state_dict().items())
    other = build_backbone("tiny", embedding_size=16)
    load_weights(other, path)
    assert torch.equal(other.fc.weight, module.fc.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("prefix", ["backbone.", "model.", "module.backbone.", "net.encoder.", "_orig_mod.model."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_a_backbone_under_a_prefix_beside_a_head_is_read(tmp_path, tiny, prefix, wrapper, caplog) -> None:
    module, _ = tiny
    state = {prefix + key: tensor for key, tensor in module.state_dict().items()}
    state |= {"head.weight": torch.zeros(9, 16), "fc.weight": torch.zeros(9, 16)}
    _same(_saved(tmp_path, {wrapper: state, "epoch": 3} if wrapper else state), module)
    assert "leaves out 2 tensors of no backbone: head.weight, fc.weight" in caplog.text


def test_a_head_beside_a_backbone_without_prefix_is_left_out(tmp_path, tiny) -> None:
    module, _ = tiny
    _same(
        _saved(tmp_path, {**module.state_dict(), "weight": torch.zeros(9, 16), "margin.kernel": torch.ones(1)}), module
    )


def test_missing_counts_of_batches_are_filled_in(tmp_path, tiny) -> None:
    module, _ = tiny
    state = {key: tensor for key, tensor in module.state_dict().items() if "num_batches_tracked" not in key}
    _same(_saved(tmp_path, state), module)


def test_two_backbones_in_one_file_are_one_too_many(tmp_path, tiny) -> None:
    module, _ = tiny
    state = {prefix + key: tensor for prefix in ("student.", "ema.") for key, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"holds 2 backbones, under 'student\.', 'ema\.'; expected one"):
        load_weights(module, _saved(tmp_path, state))


def test_a_larger_network_is_no_smaller_one_with_a_head(tmp_path) -> None:
    larger = {f"backbone.{key}": value for key, value in build_backbone("r34").state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit the network: \d+ keys unexpected"):
        load_weights(build_backbone("r18"), _saved(tmp_path, larger))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["conv1.weight", "bn1.running_var"])
def test_numbers_that_are_not_finite_are_told_by_their_tensor(tmp_path, tiny, key, value) -> None:
    module, _ = tiny
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state[key].view(-1)[3] = value
    path = _saved(tmp_path, state)
    found = rf"given\.pth: 1 of the [\d,]+ numbers in '{key}' are not finite; expected finite weights"
    for load in (lambda: load_weights(module, path), lambda: load_backbone(path)):
        with pytest.raises(CheckpointError, match=found):
            load()
    state["features.weight"][0] = value
    with pytest.raises(CheckpointError, match="and in 1 other tensor; expected"):
        load_backbone(_saved(tmp_path, state))


def test_whether_weights_fit_is_known_without_building_the_network(tiny) -> None:
    _, path = tiny
    check_weights(path, Architecture("tiny", 16, 112))
    with pytest.raises(CheckpointError, match=r"does not fit the network: .* of another shape"):
        check_weights(path, Architecture("tiny", 32, 112))
    with pytest.raises(CheckpointError, match="not found; expected a run folder or"):
        check_weights(path.with_name("modle.pt"), Architecture("tiny", 16, 112))
