"""Which of a rank's classes a forward uses: all, or a sample drawn at random or nearest to the batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from recognition.heads.block_loop import BlockLoop
from recognition.heads.rows import Rows
from recognition.heads.sampling import Active, Targets, count_own, inverse_probabilities, random_scores, sample_classes

Negatives = Literal["random", "nearest"]
Unsampled = Literal["frozen", "coast"]
Correction = Literal["none", "logq"]


@dataclass(frozen=True)
class Sampling:
    """The arguments of a head that say which classes take part in a training step, and what the others do."""

    rate: float
    negatives: Negatives
    unsampled: Unsampled
    correction: Correction

    @property
    def counted(self) -> float:
        """The share of the other classes that sums count: corrected, they stand for all."""
        return 1.0 if self.correction == "logq" else self.rate


@torch.no_grad()
def choose(
    loop: BlockLoop,
    rows: Rows,
    classes: range,
    sampling: Sampling | None,
    *,
    step: int,
    labels_on_host: Tensor | None,
    on_host: bool,
) -> tuple[Active, Targets]:
    """Return the classes that take part, and where the own ones lie among them; without `sampling` all of `classes`.

    `labels_on_host`: those of all ranks, without which counting them waits for the device.
    """
    everything = Active(len(classes), loop.sub_centers)
    targets = Targets(everything.positions(rows.local_N), on_host=on_host)
    if sampling is None:
        return everything, targets
    if sampling.negatives == "nearest":
        scores = loop.nearest(rows.x_ND, everything, targets)
    else:
        scores = random_scores(classes, seed=loop.state.seed, step=step, device=loop.state.centers.device)
    num_own = count_own(rows.label_N if labels_on_host is None else labels_on_host, classes)
    active = replace(everything, sample=sample_classes(scores, rows.local_N, sampling.rate, num_own=num_own))
    positions = active.positions(rows.local_N)
    if sampling.correction == "logq":
        weight = inverse_probabilities(active, positions, num_own=num_own, dtype=rows.x_ND.dtype)
        active = replace(active, weight=weight)
    return active, Targets(positions, on_host=on_host)
