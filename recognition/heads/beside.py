"""Work that runs beside what follows it: on CUDA on a stream of its own, elsewhere at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Beside:
    """At most one piece of work under way, with what it reads kept alive until `join`.

    A copy, or one that was pickled, has nothing under way.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._kept: list[Any] = []

    def run(self, work: Callable[[], None], device: torch.device, *, keep: Any) -> None:
        """Do `work` after all that the current stream of `device` was given so far.

        `keep`: holds the tensors that the work reads. Memory of one that is dropped goes to the next that asks on the
        current stream, which does not wait for the work.
        """
        self.join()
        if device.type != "cuda":
            work()
            return
        if self._stream is None or self._stream.device != device:
            self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._kept.append(keep)
        with torch.cuda.stream(self._stream):
            work()

    def join(self) -> None:
        """Let the current stream wait for the work, if any is under way; the host does not."""
        if self._kept and self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        self._kept.clear()

    def __reduce__(self) -> tuple[type[Beside], tuple[()]]:
        return Beside, ()
