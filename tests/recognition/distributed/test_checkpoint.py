"""A checkpoint comes back on any number of ranks, and a damaged one is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from recognition.distributed.checkpoint import Checkpoint, Snapshot, latest_checkpoint, save_checkpoint
from recognition.distributed.shards import class_range
from recognition.distributed.world import World
from recognition.errors import CheckpointError
from tests.dist_harness import run_world

NUM_CLASSES = 11
ALONE = World(0, 1, 0, torch.device("cpu"))


def _snapshot(world: World, step: int) -> Snapshot:
    """Rows whose values are their global class ids, two rows a class."""
    classes = class_range(NUM_CLASSES, world.rank, world.size)
    ids = torch.arange(classes.start, classes.stop, dtype=torch.float32).repeat_interleave(2)
    return Snapshot(
        step=step,
        replicated={"backbone.w": torch.arange(6.0).view(2, 3), "backbone.n": torch.tensor(7)},
        rows={"centers": ids[:, None].expand(-1, 4), "scale": ids.to(torch.bfloat16)},
        classes=classes,
        num_classes=NUM_CLASSES,
        meta={"state": {"step": step}},
    )


def _save(world: World, folder: str, step: int, keep: int = 3) -> str:
    return str(save_checkpoint(Path(folder), _snapshot(world, step), world=world, keep=keep))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_come_back_for_any_number_of_ranks(size: int, tmp_path: Path) -> None:
    path = Path(run_world(size, _save, str(tmp_path), 5)[0])
    checkpoint = Checkpoint(path)
    assert (checkpoint.step, checkpoint.world_size, checkpoint.meta["state"]) == (5, size, {"step": 5})
    assert torch.equal(checkpoint.replicated()["backbone.w"], torch.arange(6.0).view(2, 3))
    for ranks in (1, 2, 3, 4, 13):
        for rank in range(ranks):
            classes = class_range(NUM_CLASSES, rank, ranks)
            rows = checkpoint.rows("centers", classes)
            assert rows.shape == (2 * len(classes), 4)
            assert rows[:, 0].tolist() == [float(k) for k in classes for _ in range(2)]
            assert checkpoint.rows("scale", classes).dtype == torch.bfloat16


def test_the_newest_are_kept_and_latest_names_the_last(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        _save(ALONE, str(tmp_path), step, keep=2)
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_00000003", "step_00000004"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step_00000004"


def test_a_save_of_the_same_step_replaces_it(tmp_path: Path) -> None:
    _save(ALONE, str(tmp_path), 3)
    Checkpoint(Path(_save(ALONE, str(tmp_path), 3)))


def test_a_killed_save_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    good = _save(ALONE, str(tmp_path), 1)
    (tmp_path / ".step_00000002.part").mkdir()
    (tmp_path / ".step_00000002.part" / "replicated.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) == Path(good)
    _save(ALONE, str(tmp_path), 2)
    assert not list(tmp_path.glob(".step_*"))


def test_latest_is_found_again_when_its_pointer_is_lost_or_lies(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    path = _save(ALONE, str(tmp_path), 1)
    (tmp_path / "latest").write_text("../../etc")
    assert latest_checkpoint(tmp_path) == Path(path)


@pytest.mark.parametrize("name", ["replicated.safetensors", "rows_0.safetensors"])
def test_torn_altered_and_missing_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    path = Path(_save(ALONE, str(tmp_path), 1))
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=rf"{name}: {len(whole) - 1} bytes; expected {len(whole)}"):
        Checkpoint(path)
    (path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=rf"{name}: its checksum differs"):
        Checkpoint(path)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: cannot be read"):
        Checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99; expected 1"),
        ({"step": "x"}, "'step' is missing or not int"),
        ({"files": {"../../outside": {"bytes": 1, "crc32": 1}}}, "names '../../outside', a file outside its folder"),
        ({"shards": [{"file": "elsewhere", "start": 0, "stop": 1}]}, "'elsewhere' is not one of its files"),
    ],
)
def test_a_manifest_that_lies_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    path = Path(_save(ALONE, str(tmp_path), 1))
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(path)


def _save_into_a_file(world: World, folder: str) -> str:
    try:
        _save(world, folder + "/blocked", 1)
    except CheckpointError as err:
        return str(err)
    return "no error"


def test_one_rank_that_cannot_write_is_an_error_on_all(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file, not a folder")
    messages = run_world(2, _save_into_a_file, str(tmp_path))
    assert messages[0] == messages[1]
    assert "cannot be written" in messages[0]


def test_an_unknown_state_name_is_explained(tmp_path: Path) -> None:
    checkpoint = Checkpoint(Path(_save(ALONE, str(tmp_path), 1)))
    with pytest.raises(CheckpointError, match="holds no rows named 'momentum_scale'"):
        checkpoint.rows("momentum_scale", range(NUM_CLASSES))


def test_files_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = Path(_save(ALONE, str(tmp_path), 1))
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o644}
