"""Signals that ask a run to save or to stop: noted when they come, answered between two steps on all ranks alike."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from recognition.work.system import save_signal


class Stopped(Exception):
    """A signal ended the run in good order; everything worth keeping is saved."""

    def __init__(self, signal_number: int, step: int, saved_step: int | None) -> None:
        saved = "without a checkpoint" if saved_step is None else f"the checkpoint of step {saved_step:,} is the newest"
        super().__init__(f"stopped by {signal.Signals(signal_number).name} at step {step:,}; {saved}")
        self.signal_number = signal_number

    @property
    def status(self) -> int:
        """Return the exit status that shells give to this signal: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.signal_number


class Interrupts:
    """What was asked of this rank since it was last looked at."""

    def __init__(self) -> None:
        self.stop = 0
        """The number of the signal that asked to stop, or 0."""
        self._num_asked = 0
        self._num_answered = 0

    def take_save_request(self) -> bool:
        """Return whether a checkpoint was requested since the last call; one that comes meanwhile is not lost."""
        seen, answered = self._num_asked, self._num_answered
        self._num_answered = seen
        return seen > answered

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGTERM and SIGINT (save, then stop) and SIGUSR1 (save and continue) instead of ending by them."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread alone
            return
        asked = [signal.SIGTERM, signal.SIGINT, save_signal()]
        before = {number: signal.signal(number, self._note) for number in asked if number is not None}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == save_signal():
            self._num_asked += 1
        else:
            self.stop = number


def ignore_save_requests() -> None:
    """Let SIGUSR1 pass by until a training listens for it, in this process and in those it starts.

    Schedulers send it to every process of a job, and without a handler it kills.
    """
    if (number := save_signal()) is not None:
        signal.signal(number, signal.SIG_IGN)
