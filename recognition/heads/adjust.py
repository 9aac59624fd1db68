"""Change what a head's loss is between two steps: its margin, its scale, the share of the classes it samples."""

from __future__ import annotations

from dataclasses import replace

from recognition.heads.margins import Margin
from recognition.heads.sharded_softmax import ShardedSoftmax


def adjust(head: ShardedSoftmax, *, margin: Margin, scale: float, sample_rate: float) -> None:
    """Let these hold from the next forward on; the same on every rank. A margin keeps what it has learned of batches.

    `margin` is of the class that the head was built with. What `check_update` refuses is its caller's to refuse.
    """
    assert type(margin) is type(head.margin), "another margin would have another state"
    assert not head._pending, "a step is under way"
    head.sampling = replace(head.sampling, rate=sample_rate)
    loop = head._loop
    before = (loop.is_bounded, loop.is_plain)
    head.margin = loop.margin = margin
    loop.scale = scale
    if (loop.is_bounded, loop.is_plain) != before:
        head._settle()  # whether kernels apply
