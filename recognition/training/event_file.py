"""TensorBoard's event file, written record by record: its own writer ends a run when the disk does not take one."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recognition.work.append import AppendedFile

_VERSION = "brain.Event:2"


class EventFile:
    """Scalars and histograms of a run for TensorBoard, in a new file of `folder`.

    Steps from `first_step` on in older files of the folder are those of a run that was cut off: TensorBoard leaves them
    out. Nothing here raises for the disk's sake (`AppendedFile`), and no thread is started.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        # Imported here: it costs a second that the other ranks and --check need not pay.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import histogram

        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        self._histogram: Any = histogram
        self._record_writer: Any = RecordWriter
        self._edges = _edges()
        begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        head = [
            event_pb2.Event(wall_time=time.time(), file_version=_VERSION),
            event_pb2.Event(wall_time=time.time(), step=first_step, session_log=begin),
        ]
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = AppendedFile(folder / name, head=b"".join(map(self._record, head)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers by name."""
        entries = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, entries)

    def histograms(self, step: int, values: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Record the distributions of arrays, none of them empty."""
        entries = [
            entry for name, array in values.items() for entry in self._histogram(name, array, bins=self._edges).value
        ]
        self._write(step, entries)

    def close(self) -> None:
        """Write what waits and close the file."""
        self._file.close()

    def _write(self, step: int, entries: list[Any]) -> None:
        summary = self._summaries.Summary(value=entries)
        self._file.write(self._record(self._events.Event(wall_time=time.time(), step=step, summary=summary)))

    def _record(self, event: Any) -> bytes:
        buffer = io.BytesIO()
        self._record_writer(buffer).write(event.SerializeToString())
        return buffer.getvalue()


def _edges() -> list[float]:
    """Return TensorBoard's usual edges of bins: 0, and each side of it the powers of 1.1 from 1e-12 to 1e20."""
    edges = []
    edge = 1e-12
    while edge < 1e20:
        edges.append(edge)
        edge *= 1.1
    return [-edge for edge in reversed(edges)] + [0.0] + edges
