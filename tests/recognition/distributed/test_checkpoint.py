"""A checkpoint comes back on any number of ranks, and a damaged one is refused by name for the one before."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recognition.distributed.checkpoint import Checkpoint, choose_checkpoint, latest_checkpoint
from recognition.distributed.manifest import read_manifest, render_manifest
from recognition.distributed.publish import best_checkpoint, write_checkpoint
from recognition.distributed.shards import class_range
from recognition.distributed.world import World
from recognition.errors import CheckpointError
from tests.helpers.snapshots import ALONE, NUM_CLASSES, make_snapshot, save
from tests.helpers.worlds import run_world

FILES = ["manifest.json", "replicated.safetensors", "rows_0.safetensors", "rows_1.safetensors", "local_1.safetensors"]


def _world(rank: int, size: int) -> World:
    return World(rank, size, 0, torch.device("cpu"))


def _work(world: World, folder: str) -> dict[str, Any]:
    """Do what needs a world of that size: starting its processes costs more than all of it."""
    save(world, Path(folder), 5)
    checkpoint = choose_checkpoint(Path(folder), world)
    assert checkpoint is not None
    damaged = _damage_everything(world, Path(folder) / "damaged") if world.size == 2 else []
    return {"local": checkpoint.local(world), "damaged": damaged}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[dict[str, Any]]]]:
    """Return by size the folder a world worked in and what its ranks found."""
    folders = {size: tmp_path_factory.mktemp(f"world{size}") for size in (1, 2, 3)}
    return {size: (folder, run_world(size, _work, str(folder))) for size, folder in folders.items()}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_everything_comes_back_for_any_number_of_ranks(size: int, worlds: dict[int, Any]) -> None:
    folder, ranks = worlds[size]
    for rank, found in enumerate(ranks):
        assert found["local"]["backbone.mean"].tolist() == [float(rank)] * 3, "each rank has its own again"
    checkpoint = Checkpoint(folder / "step_00000005")
    assert (checkpoint.step, checkpoint.world_size, checkpoint.meta["state"]) == (5, size, {"step": 5})
    assert torch.equal(checkpoint.replicated()["backbone.w"], torch.arange(6.0).view(2, 3))
    for ranks in (1, 2, 3, 4, 13):
        for rank in range(ranks):
            classes = class_range(NUM_CLASSES, rank, ranks)
            checkpoint.verify(_world(rank, ranks))
            rows = checkpoint.rows("centers", classes)
            assert rows.shape == (2 * len(classes), 4)
            assert rows[:, 0].tolist() == [float(k) for k in classes for _ in range(2)]
            assert checkpoint.rows("scale", classes).dtype == torch.bfloat16
            filled = torch.full((2 * len(classes), 4), -1.0)
            checkpoint.read_rows_("centers", classes, filled)
            assert torch.equal(filled, rows)
            if ranks != size:
                assert checkpoint.local(_world(rank, ranks))["backbone.mean"].tolist() == [(size - 1) / 2] * 3


def test_a_buffer_that_all_ranks_hold_alike_keeps_its_bits_on_another_number_of_ranks(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, (make_snapshot(_world(rank, 5), 1) for rank in range(5)))
    assert torch.equal(Checkpoint(path).local(ALONE)["backbone.mean"], torch.full((3,), 0.1))  # 5 * 0.1 / 5 is not


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, score in enumerate([None, 0.9, 0.8, 0.9, None], start=8):
        save(ALONE, tmp_path, step, keep=2, score=score)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_00000009", "step_00000011", "step_00000012"]
    assert (tmp_path / "latest").read_text() == "step_00000012\n"
    assert best_checkpoint(tmp_path) == tmp_path / "step_00000009", "the first of equals"
    save(ALONE, tmp_path, 13, keep=1, score=0.95)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_00000013"]


def test_steps_are_numbers_whatever_their_length(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save(ALONE, tmp_path, step, keep=1)
    assert latest_checkpoint(tmp_path) == tmp_path / "step_100000000"
    assert not (tmp_path / "step_99999999").exists()


def test_a_killed_save_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    good = save(ALONE, tmp_path, 1)
    part = tmp_path / ".step_00000002.part"
    for folder in (part, tmp_path / ".step_00000000.part"):
        folder.mkdir()
        (folder / "rows_7.safetensors").write_bytes(b"of more ranks")
    assert latest_checkpoint(tmp_path) == good
    path = save(ALONE, tmp_path, 2)
    assert not list(tmp_path.glob(".step_*"))
    assert not (path / "rows_7.safetensors").exists()
    choose_checkpoint(tmp_path, ALONE)


def test_pointers_that_lie_change_nothing(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert choose_checkpoint(tmp_path, ALONE) is None
    path = save(ALONE, tmp_path, 1, score=1.0)
    for pointer in ("latest", "best"):
        (tmp_path / pointer).write_bytes(b"../../etc\xff")
    assert latest_checkpoint(tmp_path) == path
    assert best_checkpoint(tmp_path) is None
    save(ALONE, tmp_path, 2, score=0.5)
    assert best_checkpoint(tmp_path) == tmp_path / "step_00000002"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[Callable[[Path], None], str] = {
    _cut: "",
    _grow: "",
    _flip: "its checksum differs",
    _link: "is no plain file",
    _replace_by_folder: "is no plain file",
    Path.unlink: "cannot be read (No such file or directory)",
}


def _choose(world: World, folder: str) -> str | None:
    chosen = choose_checkpoint(Path(folder), world)
    return None if chosen is None else chosen.path.name


def _damage_everything(world: World, folder: Path) -> list[tuple[str, str, str | None]]:
    """Return which checkpoint is chosen after each damage to the newest; one folder a case, made by all ranks."""
    found = []
    for damage in DAMAGES:
        for name in FILES:
            case = folder / damage.__name__ / name
            save(world, case, 1)
            path = save(world, case, 2)
            if world.is_main:
                damage(path / name)
            found.append((damage.__name__, name, _choose(world, str(case))))
    return found


@pytest.mark.slow
def test_whatever_is_damaged_the_checkpoint_before_is_taken_on_all_ranks(worlds: dict[int, Any]) -> None:
    folder, ranks = worlds[2]
    found = ranks[0]["damaged"]
    assert found == ranks[1]["damaged"]
    assert [chosen for _, _, chosen in found] == ["step_00000001"] * len(DAMAGES) * len(FILES)
    for damage, name, _ in found:
        folders = sorted(path.name for path in (folder / "damaged" / damage / name).iterdir() if path.is_dir())
        assert folders == ["refused_step_00000002", "step_00000001"]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    "name", ["manifest.json", "replicated.safetensors", "rows_0.safetensors", "local_0.safetensors"]
)
def test_a_refusal_names_the_file(
    name: str, damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(ALONE, tmp_path, 1)
    path = save(ALONE, tmp_path, 2)
    damage(path / name)
    caplog.clear()  # of what the saves said, when a command before has set the level
    with caplog.at_level(logging.WARNING):
        assert _choose(ALONE, str(tmp_path)) == "step_00000001"
    (message,) = caplog.messages
    assert message.startswith(f"checkpoint refused: {path / name}: ")
    assert message.endswith("; the one before it is used")
    assert DAMAGES[damage] in message


def test_a_run_whose_checkpoints_are_all_damaged_says_so(tmp_path: Path) -> None:
    for step in (1, 2):
        _flip(save(ALONE, tmp_path, step) / "rows_0.safetensors")
    with pytest.raises(CheckpointError, match=r"none of 2 checkpoints is complete; the last: .*step_00000001/rows_0"):
        choose_checkpoint(tmp_path, ALONE)


def test_a_refused_checkpoint_takes_no_place_among_the_newest(tmp_path: Path) -> None:
    save(ALONE, tmp_path, 1)
    _cut(save(ALONE, tmp_path, 9) / "rows_0.safetensors")
    assert _choose(ALONE, str(tmp_path)) == "step_00000001"
    save(ALONE, tmp_path, 2, keep=1)
    assert _choose(ALONE, str(tmp_path)) == "step_00000002"


def test_no_flipped_bit_of_a_manifest_is_accepted(tmp_path: Path) -> None:
    path = save(ALONE, tmp_path, 1) / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            read_manifest(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 2}, "is of step 2; expected the step of its folder"),
        ({"step": -1}, "'step' is missing or not a whole number"),
        ({"step": 1.0}, "'step' is missing or not a whole number"),
        ({"step": True}, "'step' is missing or not a whole number"),
        ({"num_classes": 1 << 60}, "'num_classes' is missing or not a whole number"),
        ({"num_classes": 12}, "its shards end at class 11; expected 12"),
        ({"shards": ()}, "0 shards; expected 1 to 65536"),
        ({"shards": (range(1, 11),)}, r"shard \[1, 11\] does not begin at class 0"),
        ({"shards": (range(0, 5), range(6, 11))}, r"shard \[6, 11\] does not begin at class 5"),
        ({"shards": (range(0, 5), range(5, 11))}, "'(rows|local)_1.safetensors' is not one of its files"),
        ({"score": "high"}, "'score' is not a number"),
        ({"meta": [1]}, "'meta' is missing or not a dict"),
        ({"files": {}}, "is not one of its files"),
    ],
)
def test_a_manifest_that_lies_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = save(ALONE, tmp_path, 1)
    manifest = dataclasses.replace(read_manifest(path / "manifest.json"), **change)
    (path / "manifest.json").write_text(render_manifest(manifest))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1,\n "step": 3}', "format 1; expected 2; use the version that wrote it"),
        ("", "its checksum differs from its content"),
        ("\ufffe", "its checksum differs from its content"),
    ],
)
def test_text_that_is_no_manifest_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_manifest(tmp_path / "manifest.json")


def test_names_outside_the_folder_are_refused(tmp_path: Path) -> None:
    path = save(ALONE, tmp_path, 1)
    manifest = read_manifest(path / "manifest.json")
    (facts, *_) = manifest.files.values()
    outside = dataclasses.replace(manifest, files={**manifest.files, "../../outside": facts})
    (path / "manifest.json").write_text(render_manifest(outside))
    with pytest.raises(CheckpointError, match=r"names '../../outside', which is no file of a checkpoint of 1 ranks"):
        Checkpoint(path)


def test_rows_of_another_kind_are_explained(tmp_path: Path) -> None:
    checkpoint = Checkpoint(save(ALONE, tmp_path, 1))
    everyone = range(NUM_CLASSES)
    with pytest.raises(CheckpointError, match="holds no rows named 'momentum_scale'"):
        checkpoint.rows("momentum_scale", everyone)
    for wrong in (torch.zeros(22, 5), torch.zeros(22, 4, dtype=torch.bfloat16), torch.zeros(11, 4)):
        with pytest.raises(CheckpointError, match=r"'centers' is torch.float32 \[22, 4\]; expected torch"):
            checkpoint.read_rows_("centers", everyone, wrong)
    with pytest.raises(CheckpointError, match="'centers' has 22 rows for 11 classes; expected 33"):
        checkpoint.read_rows_("centers", everyone, torch.zeros(33, 4))


def test_files_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = save(ALONE, tmp_path, 1)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o644}
