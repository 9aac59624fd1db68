"""Change what a head's loss is between two steps: its margin, its scale, the share of the classes it samples."""

from __future__ import annotations

from recognition.heads.guards import check_update
from recognition.heads.margins import Margin
from recognition.heads.sharded_softmax import ShardedSoftmax


def adjust(head: ShardedSoftmax, *, margin: Margin, scale: float, sample_rate: float) -> None:
    """Let these hold from the next forward on; the same on every rank. A margin keeps what it has learned of batches.

    `margin` is of the class that the head was built with. Raises ConfigError where the head's update cannot sample.
    """
    assert type(margin) is type(head.margin), "another margin would have another state"
    assert not head._pending, "a step is under way"
    check_update(head.update, sample_rate, "float32")
    head.sample_rate = sample_rate
    loop = head._loop
    before = (loop.is_bounded, loop.is_plain)
    head.margin = loop.margin = margin
    loop.scale = scale
    if (loop.is_bounded, loop.is_plain) != before:
        head._settle()  # whether kernels apply
