"""Which classes of a rank take part in a step, in what blocks, and where a row's own class lies among them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


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

    def __len__(self) -> int:
        return self.num_local if self.sample is None else len(self.sample)

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield the active classes, `size` at a time."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield Block(start, stop, self._rows(start, stop), (stop - start) * self.sub_centers)

    def _rows(self, start: int, stop: int) -> slice | Tensor:
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


class Targets:
    """Where the rows' own classes lie among the active ones; writes values there, tile by tile."""

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions
        self._is_cpu = positions.device.type == "cpu"
        if self._is_cpu:  # most tiles hold no target at all: know which without touching them
            self._sorted, self._order = positions.sort()
            self._sorted_list: list[int] = self._sorted.tolist()

    def put_(self, tile: Tensor, block: Block, values: Tensor | float) -> None:
        """Write `values` (one per row, or one for all) at the own class of every row that has it in this block."""
        if not self._is_cpu:
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
