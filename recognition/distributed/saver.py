"""Checkpoints that are written beside training: a copy at once, the files by a thread, the folder when all are done.

The ranks agree in the step's own exchange of flags (`collectives.gather_numbers`): each tells whether its thread still
works, and once none does, all take the next of two turns: files, then publication. No thread is in a collective.
"""

from __future__ import annotations

import enum
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recognition.console import Stopwatch, size
from recognition.distributed.checkpoint import Snapshot, folder_name
from recognition.distributed.collectives import gather_numbers, gather_values
from recognition.distributed.manifest import rows_file
from recognition.distributed.publish import (
    Written,
    files_of,
    make_manifest,
    part_folder,
    point_and_prune,
    publish_checkpoint,
    remove_leftovers,
    write_files,
)
from recognition.distributed.staging import DeviceCopy, Staging, refuse_broken, stage_tensors
from recognition.distributed.tensor_file import Canceled
from recognition.distributed.world import World
from recognition.errors import ArcShardError, CheckpointError

logger = logging.getLogger(__name__)

_POLL_S = 1.0  # within which ranks that wait for the disk meet in an exchange, far below any collective's timeout


class _Turn(enum.Enum):
    IDLE = 0
    FILES = 1
    PUBLICATION = 2


class Saver:
    """Writes one checkpoint at a time; all ranks call the same methods at the same steps.

    `failures` counts the saves in a row that could not be written; after `max_failures` the next turn raises
    CheckpointError on every rank alike. `check` raises on rank 0 when the folder is no longer this run's: nothing is
    written or removed then.
    """

    def __init__(
        self,
        folder: Path,
        like: Snapshot,
        *,
        world: World,
        keep: int,
        max_failures: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.failures = 0
        self.saved_step: int | None = None
        """The last step whose checkpoint was published."""
        self._world = world
        self._keep = keep
        self._max_failures = max_failures
        self._check = check
        self.staging = Staging(files_of(like, world.rank))
        self._turn = _Turn.IDLE
        self._snapshot = like
        self._task: _Task | None = None
        self._copy: DeviceCopy | None = None
        self._watch = Stopwatch()

    @property
    def is_idle(self) -> bool:
        """Whether no checkpoint is on its way; the same on all ranks."""
        return self._turn is _Turn.IDLE

    @property
    def is_working(self) -> bool:
        """Whether this rank's thread is at work, for the exchange of flags."""
        return self._task is not None and not self._task.is_done

    def begin(self, snapshot: Snapshot, *, rows_beside: bool = False) -> None:
        """Copy what `snapshot` holds now and let a thread write it; waits for the checkpoint before to be finished.

        `rows_beside`: on a GPU the rows are copied beside the next step, and `hold` is called before they change.
        """
        self.finish()
        self._watch = Stopwatch()
        self._snapshot = snapshot
        files = files_of(snapshot, self._world.rank)
        rows = [rows_file(self._world.rank)] if rows_beside else []
        copied = self._copy = stage_tensors(self.staging, files, beside=rows)
        part = part_folder(self.folder, snapshot.step)

        def write(is_canceled: Callable[[], bool]) -> list[Any]:
            if copied is not None:
                copied.wait()
            refuse_broken(self.staging.files)
            if self._world.is_main:
                self._check()
                remove_leftovers(self.folder, but=part)
            files = write_files(part, self.staging.files, is_canceled=is_canceled)
            return Written(snapshot.classes, files).plain()

        self._turn = _Turn.FILES
        self._task = _Task(write, place=part, rank=self._world.rank)

    def hold(self) -> None:
        """Let the training's stream wait for copies under way, before it changes what they are of."""
        if self._copy is not None:
            self._copy.hold()

    def advance(self, is_anyone_working: bool) -> None:
        """Take the next turn when no rank's thread works any more; all ranks call it with what they exchanged.

        Collectives: one gather of small objects at the end of a turn, else none.
        """
        if self.is_idle or is_anyone_working:
            return
        outcomes = gather_values(None if self._task is None else self._task.outcome, self._world)
        self._task = None
        problem = next((outcome for outcome in outcomes if isinstance(outcome, str)), None)
        if problem is not None:
            self._fail(problem)
        elif self._turn is _Turn.FILES:
            self._turn = _Turn.PUBLICATION
            if self._world.is_main:
                self._publish([Written.of(outcome) for outcome in outcomes])
        else:
            self._turn = _Turn.IDLE
            self._note_success(outcomes[0])

    def finish(self) -> None:
        """Wait until the checkpoint on its way is published or given up. Collectives: an exchange a second."""
        while not self.is_idle:
            if self._task is not None:
                self._task.wait(_POLL_S)
            flags = gather_numbers([int(self.is_working)], self._world)
            self.advance(any(flag for (flag,) in flags))

    def abandon(self) -> None:
        """Stop this rank's thread without a word to the others: the run is ending with an error."""
        if self._task is not None:
            self._task.cancel()
            self._task.wait(5.0)

    def _publish(self, ranks: Sequence[Written]) -> None:
        manifest = make_manifest(self._snapshot, ranks)

        def publish(_: Callable[[], bool]) -> int:
            self._check()
            publish_checkpoint(self.folder, manifest)
            point_and_prune(self.folder, manifest, self._keep)
            return sum(facts.num_bytes for facts in manifest.files.values())

        self._task = _Task(publish, place=part_folder(self.folder, manifest.step), rank=self._world.rank)

    def _note_success(self, num_bytes: int) -> None:
        self.failures = 0
        self.saved_step = self._snapshot.step
        path = self.folder / folder_name(self._snapshot.step)
        copied = "" if self._copy is None else f"; {self._copy.told()}"
        logger.info("saved %s, %s in %.1fs during training%s", path, size(num_bytes), self._watch.seconds, copied)

    def _fail(self, problem: str) -> None:
        self._turn = _Turn.IDLE
        self.failures += 1
        if self._world.is_main:
            shutil.rmtree(part_folder(self.folder, self._snapshot.step), ignore_errors=True)
        text = f"step {self._snapshot.step}: no checkpoint: {problem}"
        if self.failures >= self._max_failures:
            raise CheckpointError(
                f"{text}; {self.failures} in a row failed, and checkpoint.max_failures is {self._max_failures}; fix "
                "that and resume from the newest"
            )
        logger.warning(
            "%s; training continues, the checkpoints before it are unchanged (%d of %d in a row)",
            text,
            self.failures,
            self._max_failures,
        )


class _Task:
    """A function in a thread of its own, and what came of it: its value, or in words why there is none."""

    def __init__(self, work: Callable[[Callable[[], bool]], Any], *, place: Path, rank: int) -> None:
        self.outcome: Any = None
        self._canceled = threading.Event()
        self._done = threading.Event()
        self._place = place
        self._rank = rank
        # A daemon: a run that ends with an error must not wait for a slow disk.
        thread = threading.Thread(target=self._run, args=(work,), name="checkpoint", daemon=True)
        try:
            thread.start()
        except RuntimeError as err:  # the system's limit on them is reached; perhaps not at the next save
            self.outcome = f"{place}: rank {rank}: {err}"
            self._done.set()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def wait(self, timeout_s: float) -> None:
        self._done.wait(timeout_s)

    def cancel(self) -> None:
        self._canceled.set()

    def _run(self, work: Callable[[Callable[[], bool]], Any]) -> None:
        try:
            self.outcome = work(self._canceled.is_set)
        except Canceled:
            self.outcome = "canceled"
        except OSError as err:
            self.outcome = f"{self._place}: rank {self._rank} cannot write ({_reason(self._place, err)})"
        except ArcShardError as err:
            self.outcome = f"{self._place}: rank {self._rank}: {err}"
        except BaseException as err:  # whatever it is: the others wait for this rank's word
            self.outcome = f"{self._place}: rank {self._rank}: {type(err).__name__}: {err}"
            logger.exception("the checkpoint's thread failed")
        finally:
            self._done.set()


def _reason(place: Path, err: OSError) -> str:
    try:
        free = f"; {size(shutil.disk_usage(place.parent).free)} free"
    except OSError:
        free = ""
    return f"{err.strerror or err}{free}"
