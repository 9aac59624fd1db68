"""MXNet's im2rec with several labels: every record is an image with a list of labels, the first the class id."""

from __future__ import annotations

from recognition.formats.layouts import Layout, Parts, ReadPayload
from recognition.formats.record_index import RecordIndex
from recognition.formats.recordio import parse_header


class Multilabel(Layout):
    """The sequential layout with lists of labels."""

    keeps_lists = True

    def find(self, index: RecordIndex, read_payload: ReadPayload) -> Parts | None:
        """Return every record as an image when the first one has a list of labels."""
        if parse_header(read_payload(0)).flag == 0:
            return None
        return Parts("multilabel", range(len(index)), range(0), None)
