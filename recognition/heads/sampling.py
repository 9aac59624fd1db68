"""Which classes of a rank take part in a step, in what blocks, and where a row's own class lies among them."""

from __future__ import annotations

import functools
import logging
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.draws.hashing import derive_key, mix64

logger = logging.getLogger(__name__)

_SCORES_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Block:
    """A run of consecutive active classes and their rows in the state."""

    start: int  # position among the active classes
    stop: int
    rows: slice | Tensor
    num_rows: int


@dataclass(frozen=True)
class Active:
    """The classes of this rank that take part: all of them, or the sorted local ids in `sample`."""

    num_local: int
    sub_centers: int
    sample: Tensor | None = None
    weight: Tensor | None = None
    """How often each of them counts as a negative [active classes]; None: once."""

    def __len__(self) -> int:
        return self.num_local if self.sample is None else len(self.sample)

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the active classes, `size` at a time."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield Block(start, stop, self.rows(start, stop), (stop - start) * self.sub_centers)

    def rows(self, start: int, stop: int) -> slice | Tensor:
        """Return the rows of the active classes from position `start` to before `stop`."""
        if self.sample is None:
            return slice(start * self.sub_centers, stop * self.sub_centers)
        first = self.sample[start:stop] * self.sub_centers
        if self.sub_centers == 1:
            return first
        return (first.unsqueeze(1) + torch.arange(self.sub_centers, device=first.device)).flatten()

    def positions(self, local_labels: Tensor) -> Tensor:
        """Return where each label lies among the active classes, -1 for those of other ranks."""
        is_own = (local_labels >= 0) & (local_labels < self.num_local)
        if self.sample is None:
            return torch.where(is_own, local_labels, -1)
        # The sample holds every own label, so the search always meets it.
        return torch.where(is_own, torch.searchsorted(self.sample, local_labels), -1)


def sample_classes(scores: Tensor, local_labels: Tensor, rate: float, *, num_own: int) -> Tensor:
    """Return the sorted local ids of the highest `scores` [C_r], `rate` of them, every own label among them.

    `num_own` is how many distinct labels are this rank's; where they alone are more than the rate asks for, the sample
    is these. With one number for all devices the sample is one for all; and it is known without a wait for the device.
    """
    num_local = len(scores)
    is_own = (local_labels >= 0) & (local_labels < num_local)
    wanted = round(rate * num_local)
    if num_own > wanted > 0:
        _warn_of_small_sample(wanted, num_local)
    # Labels of other ranks go to a place behind the last class.
    padded = torch.cat([scores, scores.new_zeros(1)])
    highest = torch.inf if scores.is_floating_point() else torch.iinfo(scores.dtype).max
    padded.index_fill_(0, torch.where(is_own, local_labels, num_local), highest)
    return padded[:num_local].topk(min(num_local, max(wanted, num_own)), sorted=False).indices.sort().values


def inverse_probabilities(active: Active, positions: Tensor, *, num_own: int, dtype: torch.dtype) -> Tensor | None:
    """Return 1 / q for the classes of a random sample, with q the chance that a class not of the batch is drawn here.

    The batch's own, which lie at `positions` (-1: on another rank), are drawn for certain: 1. None without others.
    """
    num_drawn, num_others = len(active) - num_own, active.num_local - num_own
    if num_drawn <= 0:
        return None
    padded = torch.full((len(active) + 1,), num_others / num_drawn, dtype=dtype, device=positions.device)
    padded.index_fill_(0, torch.where(positions < 0, len(active), positions), 1.0)
    return padded[:-1]


def count_own(labels: Tensor, classes: range) -> int:
    """Return how many distinct `labels` are among `classes`. For labels on the host: elsewhere it waits for them."""
    return len(labels[(labels >= classes.start) & (labels < classes.stop)].unique())


@functools.cache  # once is enough
def _warn_of_small_sample(wanted: int, num_local: int) -> None:
    logger.warning(
        "head.sample_rate: %d of the %d classes of this rank are to be sampled, but the batch alone holds more; "
        "such steps draw no negatives here; raise the rate",
        wanted,
        num_local,
    )


def random_scores(classes: range, *, seed: int, step: int, device: torch.device) -> Tensor:
    """Return a random int64 per class, no two of them equal: a function of (seed, step, class), on any device."""
    key = derive_key(seed, step)
    scores = torch.empty(len(classes), dtype=torch.int64, device=device)
    # On a CPU what fits its cache takes 3.5 ms a million, all at once 5.2; on CUDA each block is a dozen launches.
    size = _SCORES_AT_ONCE if device.type == "cpu" else max(1, len(classes))
    for start in range(0, len(classes), size):
        part = scores[start : start + size]
        first = classes.start + start
        part.copy_(mix64(torch.arange(first, first + len(part), device=device) + key))
    return scores


class Targets:
    """Where the rows' own classes lie among the active ones; writes values there, tile by tile."""

    def __init__(self, positions: Tensor, *, on_host: bool) -> None:
        self.positions = positions
        self._on_host = on_host
        if on_host:  # most tiles hold no target at all: know which without touching them
            self._sorted, self._order = positions.sort()
            self._sorted_list: list[int] = self._sorted.tolist()

    def put_(self, tile: Tensor, block: Block, values: Tensor | float) -> None:
        """Write `values` (one per row, or one for all) at the own class of every row that has it in this block."""
        if not self._on_host:
            self._put_without_sync_(tile, block, values)
            return
        first, last = bisect_left(self._sorted_list, block.start), bisect_left(self._sorted_list, block.stop)
        if first == last:
            return
        rows = self._order[first:last]
        columns = self._sorted[first:last] - block.start
        tile[rows, columns] = values[rows] if isinstance(values, Tensor) else values

    def _put_without_sync_(self, tile: Tensor, block: Block, values: Tensor | float) -> None:
        columns = (self.positions - block.start).unsqueeze(1)
        is_here = (columns >= 0) & (columns < tile.shape[1])
        columns = columns.clamp(0, tile.shape[1] - 1)
        wanted = values.unsqueeze(1) if isinstance(values, Tensor) else values
        tile.scatter_(1, columns, torch.where(is_here, wanted, tile.gather(1, columns)))
