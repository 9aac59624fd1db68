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
    head.facts = replace(head.facts, scale=scale, sample_rate=head.sampling.counted)
    loop = head._loop
    before = loop.fits_kernels
    head.margin = loop.margin = margin.bind(head.facts)
    loop.scale = head.margin.fixed_scale(scale)
    if loop.fits_kernels != before:
        head._settle()  # whether kernels apply
