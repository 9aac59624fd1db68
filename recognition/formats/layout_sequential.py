"""The plain layout: every record is an image with its label in the header; keys 0..N-1 in any order."""

from __future__ import annotations

from recognition.formats.layouts import Layout, Parts, ReadPayload
from recognition.formats.record_index import RecordIndex


class Sequential(Layout):
    """Images only; any set that is nothing else."""

    def find(self, index: RecordIndex, read_payload: ReadPayload) -> Parts | None:
        """Return every record as an image."""
        return Parts("sequential", range(len(index)), range(0), None)
