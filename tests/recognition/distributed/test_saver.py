"""A save copies at once, writes beside training, and a failure of it costs a warning, not the run."""

from __future__ import annotations

import errno
import logging
import threading
import time
from pathlib import Path

import pytest
import torch

from recognition.distributed import publish, saver
from recognition.distributed.checkpoint import Checkpoint, list_checkpoints
from recognition.distributed.collectives import gather_numbers
from recognition.distributed.staging import Staging, stage_tensors
from recognition.distributed.tensor_file import write_tensor_file
from recognition.distributed.world import World
from recognition.errors import CheckpointError
from tests.helpers.snapshots import ALONE, make_saver, make_snapshot, save
from tests.helpers.worlds import run_world


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold every file back until the event is set."""
    event = threading.Event()

    def wait_and_write(*args, **kwargs):
        event.wait(10)
        return write_tensor_file(*args, **kwargs)

    monkeypatch.setattr(publish, "write_tensor_file", wait_and_write)
    return event


def test_what_is_saved_is_the_state_when_the_save_began(gate: threading.Event, tmp_path: Path) -> None:
    saver = make_saver(ALONE, tmp_path)
    snapshot = make_snapshot(ALONE, 4)
    saver.begin(snapshot)
    for tensor in [*snapshot.rows.values(), *snapshot.replicated.values()]:
        tensor.fill_(-7)  # training continues in place
    assert saver.is_working
    saver.advance(is_anyone_working=True)
    assert not list_checkpoints(tmp_path)
    gate.set()
    saver.finish()
    assert (saver.is_idle, saver.saved_step) == (True, 4)
    saved = Checkpoint(tmp_path / "step_00000004")
    assert torch.equal(saved.rows("centers", range(11)), make_snapshot(ALONE, 4).rows["centers"])
    assert torch.equal(saved.replicated()["backbone.n"], torch.tensor(7))


def test_the_next_save_waits_for_the_one_before(gate: threading.Event, tmp_path: Path) -> None:
    saver = make_saver(ALONE, tmp_path)
    saver.begin(make_snapshot(ALONE, 1))
    threading.Timer(0.2, gate.set).start()
    started = time.monotonic()
    saver.begin(make_snapshot(ALONE, 2))
    assert time.monotonic() - started > 0.1
    assert (tmp_path / "step_00000001" / "manifest.json").is_file()
    saver.finish()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000002", "step_00000001"]


def test_a_run_that_ends_badly_does_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entered = threading.Event()

    def trickle(path, tensors, *, is_canceled):
        entered.set()
        while not is_canceled():
            time.sleep(0.01)
        return write_tensor_file(path, tensors, is_canceled=is_canceled)

    monkeypatch.setattr(publish, "write_tensor_file", trickle)
    saver = make_saver(ALONE, tmp_path)
    saver.begin(make_snapshot(ALONE, 1))
    assert entered.wait(10)
    saver.abandon()
    assert not saver.is_working
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
    assert not list_checkpoints(tmp_path)


def _full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def _save_on_a_full_disk(world: World, folder: str, name: str) -> list[str]:
    """Save well, then twice with rank 1 (or rank 0 for what it alone does) unable to; return what was said."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("recognition.distributed.saver").addHandler(handler)
    ours = make_saver(world, Path(folder), max_failures=2)
    ours.begin(make_snapshot(world, 1))
    ours.finish()
    works = getattr(saver, name)
    if name != "write_files" or world.rank == 1:
        setattr(saver, name, _full_disk)
    ours.begin(make_snapshot(world, 2))
    while not ours.is_idle:  # as training does, step by step
        ours.advance(any(flag for (flag,) in gather_numbers([int(ours.is_working)], world)))
    assert (ours.failures, ours.saved_step) == (1, 1)
    ours.begin(make_snapshot(world, 3))
    with pytest.raises(CheckpointError) as failed:
        ours.finish()
    setattr(saver, name, works)
    logging.getLogger("recognition.distributed.saver").removeHandler(handler)
    return [*messages, str(failed.value)]


def _fill_disks(world: World, folder: str) -> list[list[str]]:
    return [_save_on_a_full_disk(world, f"{folder}/{name}", name) for name in ("write_files", "publish_checkpoint")]


@pytest.mark.slow
def test_a_full_disk_costs_a_warning_and_in_the_end_the_run_on_all_ranks_alike(tmp_path: Path) -> None:
    first, second = run_world(2, _fill_disks, str(tmp_path))
    assert first == second
    for (warning, error), name, rank in zip(first, ("write_files", "publish_checkpoint"), (1, 0)):
        folder, found = tmp_path / name, f"rank {rank} cannot write (No space left on device; "
        assert warning.startswith(f"step 2: no checkpoint: {folder}/.step_00000002.part: {found}")
        assert warning.endswith("; training continues, the checkpoints before it are unchanged (1 of 2 in a row)")
        assert error.startswith(f"step 3: no checkpoint: {folder}/.step_00000003.part: {found}")
        assert error.endswith(
            "2 in a row failed, and checkpoint.max_failures is 2; fix that and resume from the newest"
        )
        assert sorted(path.name for path in folder.iterdir()) == ["latest", "step_00000001"]


@pytest.mark.parametrize(("name", "value"), [("centers", float("nan")), ("scale", float("-inf"))])
def test_a_state_that_is_not_finite_is_never_published(
    name: str, value: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = make_saver(ALONE, tmp_path)
    snapshot = make_snapshot(ALONE, 1)
    snapshot.rows[name].flatten()[3] = value
    ours.begin(snapshot)
    ours.finish()
    assert f"rank 0: {name!r} is not finite; expected numbers to continue from; training continues" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_success_forgets_the_failures_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = make_saver(ALONE, tmp_path, max_failures=2)
    for step in range(1, 5):
        with monkeypatch.context() as patch:
            if step % 2:
                patch.setattr(saver, "write_files", _full_disk)
            ours.begin(make_snapshot(ALONE, step))
            ours.finish()
    assert ours.failures == 0
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000004", "step_00000002"]


def test_a_step_saved_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    path = save(ALONE, tmp_path, 3)
    (path / "rows_0.safetensors").unlink()
    Checkpoint(save(ALONE, tmp_path, 3)).verify(ALONE)
    assert not list(tmp_path.glob(".step_*"))


def test_staging_is_one_copy_whatever_the_types() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randint(-100, 100, (3, 5), generator=generator, dtype=torch.int8),
        "b": torch.randn(7, generator=generator).to(torch.bfloat16),
        "c": torch.tensor(3),
        "d": torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        "e": torch.randn(0, 4),
        "f": torch.randn(5, generator=generator, dtype=torch.float64),
    }
    staging = Staging({"x": tensors, "y": {"a": tensors["a"]}})
    stage_tensors(staging, {"x": tensors, "y": {"a": tensors["a"]}})
    for name, tensor in tensors.items():
        assert torch.equal(staging.files["x"][name], tensor), name
        assert staging.files["x"][name].is_contiguous()
    total = sum(tensor.nbytes for tensor in tensors.values()) + tensors["a"].nbytes
    assert total <= staging.num_bytes <= total + 64 * 7


def test_a_thread_that_cannot_be_started_is_a_failed_save(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saver = make_saver(ALONE, tmp_path, max_failures=2)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        saver.begin(make_snapshot(ALONE, 1))
        saver.finish()
    assert saver.failures == 1
    saver.begin(make_snapshot(ALONE, 2))
    saver.finish()
    assert (saver.failures, saver.saved_step) == (0, 2)


def test_old_checkpoints_go_where_there_is_no_room_for_a_pointer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for step in (1, 2):
        save(ALONE, tmp_path, step)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(publish, "write_pointer", fail)
    saver = make_saver(ALONE, tmp_path, keep=1)
    saver.begin(make_snapshot(ALONE, 3))
    saver.finish()
    assert saver.failures == 1
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000003"], "the disk has room again"


def test_a_folder_that_another_run_took_is_left_alone(tmp_path: Path) -> None:
    def taken() -> None:
        raise CheckpointError("taken over by process 41 on node7")

    kept = save(ALONE, tmp_path, 1)
    (tmp_path / ".step_00000009.part").mkdir()  # of the other run
    snapshot = make_snapshot(ALONE, 2)
    saver_of_old = saver.Saver(tmp_path, snapshot, world=ALONE, keep=1, max_failures=1, check=taken)
    saver_of_old.begin(snapshot)
    with pytest.raises(CheckpointError, match="taken over by process 41 on node7"):
        saver_of_old.finish()
    assert list_checkpoints(tmp_path) == [kept]
    assert (tmp_path / ".step_00000009.part").exists()
