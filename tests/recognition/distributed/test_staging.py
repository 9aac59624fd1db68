"""The copy a checkpoint is written from, on a GPU: what runs beside the training, and what waits for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from recognition.distributed.staging import DeviceCopy
from recognition.distributed.world import World
from tests.helpers.heads import batch, make_head, take_step
from tests.helpers.snapshots import make_saver, make_snapshot

ALONE = World(0, 1, 0, torch.device("cpu"))


class Cuda:
    """torch.cuda with two streams that only note what is asked of them, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.now = Line(self, "training")
        self.num_events = 0

    def Stream(self) -> Line:
        return Line(self, "side")

    def Event(self, enable_timing: bool) -> Mark:
        self.num_events += 1
        return Mark(self, ("began", "done", "held", "released")[self.num_events - 1])

    def current_stream(self) -> Line:
        return self.now

    @contextlib.contextmanager
    def stream(self, line: Line) -> Iterator[None]:
        before, self.now = self.now, line
        yield
        self.now = before


class Line:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: Line) -> None:
        self.cuda.done.append(f"{self.name} waits for {other.name}")

    def wait_event(self, mark: Mark) -> None:
        self.cuda.done.append(f"{self.name} waits for {mark.name}")


class Mark:
    is_past = True

    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def record(self) -> None:
        self.cuda.done.append(f"{self.cuda.now.name} marks {self.name}")

    def synchronize(self) -> None:
        self.cuda.done.append(f"host waits for {self.name}")

    def query(self) -> bool:
        return self.is_past

    def elapsed_time(self, other: Mark) -> float:
        return {"began-done": 420.0, "held-released": 31.0}[f"{self.name}-{other.name}"]


class Noted(torch.Tensor):
    """A tensor whose copies are noted."""

    cuda: Any = None
    name = ""

    def copy_(self, source: Any, non_blocking: bool = False) -> Any:
        assert non_blocking
        self.cuda.done.append(f"{self.cuda.now.name} copies {self.name}")
        return self


def noted(cuda: Cuda, name: str) -> Any:
    tensor = torch.zeros(1).as_subclass(Noted)
    tensor.cuda, tensor.name = cuda, name
    return tensor


def test_rows_are_copied_beside_the_next_step_and_hold_what_changes_them() -> None:
    cuda = Cuda()
    copy = DeviceCopy(cuda)
    copy.run([(noted(cuda, "weights"), torch.zeros(1))], [(noted(cuda, "centers"), torch.zeros(1))])
    cuda.done.append("forward and backward")
    copy.hold()
    copy.hold()  # at every later step
    cuda.done.append("optimizer's step")
    copy.wait()
    assert cuda.done == [
        "training copies weights",
        "side waits for training",
        "side marks began",
        "side copies centers",
        "side marks done",
        "forward and backward",
        "training marks held",
        "training waits for done",
        "training marks released",
        "optimizer's step",
        "host waits for done",
    ]
    assert copy.told() == "copied from the GPU in 0.420s, a step held for 0.031s"


def test_what_has_not_been_held_up_yet_is_not_told() -> None:
    copy = DeviceCopy(Cuda())
    assert copy.told() == "copied from the GPU in 0.420s"


def test_a_saver_holds_the_step_and_tells_of_the_copy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cuda, asked = Cuda(), []

    def stage(staging: Any, files: Any, *, beside: Any) -> DeviceCopy:
        asked.append(list(beside))
        return DeviceCopy(cuda)

    monkeypatch.setattr("recognition.distributed.saver.stage_tensors", stage)
    saver = make_saver(ALONE, tmp_path)
    saver.hold()  # nothing is under way
    with caplog.at_level("INFO"):
        saver.begin(make_snapshot(ALONE, 4), rows_beside=True)
        saver.hold()
        saver.finish()
    (beside,) = asked
    assert len(beside) == 1 and "rows" in beside[0]
    assert "training waits for done" in cuda.done
    assert "copied from the GPU in 0.420s, a step held for 0.031s" in caplog.text


def test_the_step_of_a_head_lets_a_hook_run_before_anything_moves() -> None:
    head = make_head(20)
    optimizer = head.optimizer(lr=0.1)
    before = head.centers.clone()
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(torch.equal(head.centers, before)))
    take_step(head, optimizer, batch(head, 4))
    assert seen == [True]
    assert not torch.equal(head.centers, before)
