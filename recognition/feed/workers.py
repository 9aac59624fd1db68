"""Who fills the batches: processes that decode into shared memory, or this process itself."""

from __future__ import annotations

import contextlib
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeAlias

import cv2
import torch

from recognition.errors import ArcShardError, DataError
from recognition.feed.bad_records import BadRecord, BadRecordPolicy, Replacements
from recognition.feed.batches import BatchFiller, BatchLayout, Request, SharedSlots
from recognition.feed.dataset import Pictures
from recognition.work.system import clean_process_context

# Long enough for a cold network file system; without a limit a stuck read stops every rank for good.
TIMEOUT_S = 300.0
_BATCHES_PER_WORKER = 3  # one being filled, two waiting: a worker never waits for the consumer's answer

Answer: TypeAlias = list[BadRecord] | Exception


class BatchSource(Protocol):
    """Fills slots of memory with batches, in the order asked for."""

    @property
    def slots(self) -> Sequence[torch.Tensor]:
        """Memory for batches, each uint8 [bytes of a batch]."""

    @property
    def memory(self) -> Sequence[torch.Tensor]:
        """The stretches of memory in which the slots lie, for page-locking."""

    @property
    def num_free(self) -> int:
        """How many more batches may be asked for."""

    @property
    def num_pending(self) -> int:
        """How many were asked for and not yet received."""

    def submit(self, request: Request) -> None:
        """Ask for a batch."""

    def is_ready(self) -> bool:
        """Whether `receive` would return without waiting."""

    def receive(self) -> int:
        """Return the slot of the oldest batch asked for; it stays untouched until released. Raises its error.

        What was replaced in it goes to the policy the source was made with.
        """

    def release(self, slot: int) -> None:
        """Let a received slot be filled anew."""

    def take(self, slot: int) -> torch.Tensor:
        """Return what a received slot holds as memory the caller may keep, and release the slot."""

    def discard(self) -> None:
        """Forget every batch asked for and not received."""

    def pids(self) -> list[int]:
        """Return the processes that decode."""

    def close(self) -> None:
        """End the processes, if any."""


class InlineSource:
    """Fills a batch in this process, at the moment it is received."""

    def __init__(
        self, pictures: Pictures, layout: BatchLayout, *, num_threads: int, policy: BadRecordPolicy | None = None
    ) -> None:
        # One on its way to a device, one being filled.
        self.slots = [torch.empty(layout.num_bytes, dtype=torch.uint8) for _ in range(2)]
        self.memory = self.slots
        self._layout = layout
        self._views = [layout.view(slot) for slot in self.slots]
        self._policy = policy
        self._filler = BatchFiller(pictures, num_threads, policy.replacements if policy else None)
        self._free = deque(range(len(self._views)))
        self._asked: deque[Request] = deque()

    @property
    def num_free(self) -> int:
        return len(self._free) - len(self._asked)

    @property
    def num_pending(self) -> int:
        return len(self._asked)

    def submit(self, request: Request) -> None:
        self._asked.append(request)

    def is_ready(self) -> bool:
        return False

    def receive(self) -> int:
        bad = self._filler.fill_(self._views[self._free[0]], self._asked.popleft())
        if bad and self._policy:
            self._policy.note(bad)
        return self._free.popleft()

    def release(self, slot: int) -> None:
        self._free.append(slot)

    def take(self, slot: int) -> torch.Tensor:
        # Memory of its own in place of what is given away: a copy less.
        taken, self.slots[slot] = self.slots[slot], torch.empty_like(self.slots[slot])
        self._views[slot] = self._layout.view(self.slots[slot])
        self.release(slot)
        return taken

    def discard(self) -> None:
        self._asked.clear()

    def pids(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    connection: Connection


class WorkerSource:
    """Fills batches in processes of their own, round robin, a few ahead of the consumer.

    A fork copies the locks of CUDA's, gloo's and TensorBoard's threads in whatever state they are, so workers come from
    a clean server process. It imports torch once, and each worker is then a cheap fork of it.
    """

    def __init__(
        self,
        pictures: Pictures,
        layout: BatchLayout,
        *,
        num_workers: int,
        num_threads: int,
        policy: BadRecordPolicy | None = None,
    ) -> None:
        self._policy = policy
        context = clean_process_context(["torch", "cv2", "recognition.feed.workers"])
        shared = SharedSlots(num_workers * _BATCHES_PER_WORKER, layout)
        self.slots = list(shared.slots)
        self.memory = [shared.memory]
        self._workers: list[_Worker] = []
        for number in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve,
                args=(theirs, pictures, shared, num_threads, policy.replacements if policy else None),
                name=f"loader worker {number}",
                daemon=True,
            )
            process.start()
            theirs.close()  # so that a worker's end is seen as the end of its pipe
            self._workers.append(_Worker(process, ours))
        self._shared = shared  # its file stays open until every worker has mapped it
        self._free = deque(range(shared.num_slots))
        self._pending: deque[tuple[_Worker, int]] = deque()
        self._num_submitted = 0
        # Workers end when their pipe does; without this they would live as long as the process.
        self.close = weakref.finalize(self, _close, self._workers)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def submit(self, request: Request) -> None:
        worker = self._workers[self._num_submitted % len(self._workers)]
        slot = self._free.popleft()
        self._pending.append((worker, slot))
        self._num_submitted += 1
        with contextlib.suppress(BrokenPipeError):  # a dead worker is reported when its batch is received
            worker.connection.send((slot, request))

    def is_ready(self) -> bool:
        return bool(self._pending) and self._pending[0][0].connection.poll()

    def receive(self) -> int:
        worker, slot = self._pending.popleft()
        try:
            answer = self._answer(worker)
        except DataError:
            self.close()
            raise
        if isinstance(answer, Exception):
            self._free.append(slot)
            raise answer
        if answer and self._policy:
            try:
                self._policy.note(answer)
            except DataError:
                self._free.append(slot)
                raise
        return slot

    def release(self, slot: int) -> None:
        self._free.append(slot)

    def take(self, slot: int) -> torch.Tensor:
        taken: torch.Tensor = self.slots[slot].clone()
        self.release(slot)
        return taken

    def discard(self) -> None:
        while self._pending:
            worker, slot = self._pending.popleft()
            self._answer(worker)
            self._free.append(slot)

    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    def _answer(self, worker: _Worker) -> Answer:
        """Wait for the oldest answer of `worker`: what was replaced in the slot, or why it is not filled."""
        ready = wait([worker.connection, worker.process.sentinel], TIMEOUT_S)
        if not ready:
            raise DataError(
                f"{worker.process.name}: no batch in {TIMEOUT_S:.0f} s; expected one; look for a stalled disk or mount"
            )
        with contextlib.suppress(EOFError, ConnectionError):
            answer: Answer = worker.connection.recv()
            return answer
        worker.process.join(5)
        raise DataError(
            f"{worker.process.name}: ended with status {worker.process.exitcode} before its batch was ready; expected "
            "it to live as long as the run; was it killed for memory? lower data.num_workers"
        )


def _serve(
    connection: Connection, pictures: Pictures, shared: SharedSlots, num_threads: int, replacements: Replacements | None
) -> None:
    """Fill the slots asked for until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the trainer decides what follows
    torch.set_num_threads(1)
    cv2.setNumThreads(1)  # workers and threads share the cores among themselves; OpenCV would start a pool in each
    filler = BatchFiller(pictures, num_threads, replacements)
    batches = [shared.layout.view(slot) for slot in shared.slots]
    with contextlib.suppress(EOFError, ConnectionError, BrokenPipeError):
        while True:
            slot, request = connection.recv()
            answer: Answer
            try:
                answer = filler.fill_(batches[slot], request)
            except ArcShardError as err:
                answer = err
            except Exception:
                # A mistake of ours: whoever reports it needs to see where it happened.
                answer = RuntimeError(f"a loader worker failed\n{traceback.format_exc()}")
            connection.send(answer)


def _close(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.process.join(1)
        if worker.process.is_alive():
            worker.process.kill()
