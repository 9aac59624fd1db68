"""Compare blocks of embeddings by torch: on a GPU, or in the CPU's fastest precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from recognition.clustering.numpy_tiles import DENSE, Pairs, Tile
from recognition.clustering.sieve import Sieve
from recognition.clustering.unit_rows import unit_divisors
from recognition.work import device_copies


class _Sifted(NamedTuple):
    """A tile after the rough product."""

    block: torch.Tensor  # float64 [n, D], unit rows
    others: torch.Tensor  # float64 [m, D]
    passed: torch.Tensor  # bool [n, m]


class _Decided(NamedTuple):
    """The candidates of a tile, on their way to the host: row, other row, cosine, each [candidates]."""

    first: torch.Tensor
    second: torch.Tensor
    exact: torch.Tensor


class TorchTiles:
    """Candidates by a product in the sieve's precision, decided in float64. Rows come with all columns from them on.

    On a GPU the host waits once a tile, for what it asked for a tile earlier, while the next product runs: the
    candidates of a tile are counted while the following one is sifted, and read while the one after that is. With
    `runs_ahead` the CPU does its work in the same order.
    """

    def __init__(
        self, embeddings: np.ndarray, threshold: float, device: torch.device | str, *, runs_ahead: bool = False
    ) -> None:
        self._embeddings = embeddings
        self._threshold = threshold
        self._device = torch.device(device)
        self._runs_ahead = runs_ahead or self._device.type != "cpu"
        self._sieve = Sieve.for_device(self._device, embeddings.shape[1])
        self._block = self._rough = torch.empty(0)
        self._divisors: dict[int, torch.Tensor] = {}  # first row of a block -> its lengths: they cost 5 times the rest

    def __call__(self, tiles: Iterable[Tile]) -> Iterator[Pairs]:
        """Yield the pairs of each tile, in order; DataError when a row is not finite."""
        if self._runs_ahead:
            yield from self._ahead(tiles)
        else:
            for tile in tiles:
                yield self._pairs(self._decide(self._sift(*tile)))

    def _ahead(self, tiles: Iterable[Tile]) -> Iterator[Pairs]:
        counted: tuple[_Sifted, torch.Tensor] | None = None
        decided: _Decided | None = None
        wait = device_copies.mark(self._device)
        for tile in chain(tiles, (None, None)):  # twice more, for what is under way after the last one
            sifted = None if tile is None else self._sift(*tile)
            following = None if sifted is None else (sifted, device_copies.sent_home(sifted.passed.sum()))
            wait()  # the one: for what was asked for before this tile
            answer, decided = decided, None if counted is None else self._decide(*counted)
            wait = device_copies.mark(self._device)
            if answer is not None:
                yield self._pairs(answer)
            counted = following

    def _sift(self, rows: range, columns: range) -> _Sifted:
        """Begin the rough product of a tile."""
        others = self._unit_rows(columns)
        rough_others = others.to(self._sieve.dtype)
        is_same = rows == columns
        if is_same:
            self._block, self._rough = others, rough_others
        passed = self._rough @ rough_others.T > self._threshold - self._sieve.error
        if is_same:
            passed.triu_(1)
        return _Sifted(self._block, others, passed)

    def _decide(self, sifted: _Sifted, num_passed: torch.Tensor | None = None) -> _Decided:
        """Begin the exact cosines of the candidates of a tile; a GPU is told how many they are, as it was sent home."""
        block, others, passed = sifted
        flat = (
            _flat_nonzero(passed)
            if num_passed is None
            else _flat_of_known(passed, int(device_copies.arrived(num_passed)))
        )
        first, second = flat // len(others), flat % len(others)
        if len(flat) > passed.numel() // DENSE:
            exact = (block @ others.T).flatten()[flat]
        else:
            parts = zip(torch.split(first, len(block)), torch.split(second, len(block)))
            exact = torch.cat([torch.einsum("nd,nd->n", block[i], others[j]) for i, j in parts])
        return _Decided(*(device_copies.sent_home(values) for values in (first, second, exact)))

    def _pairs(self, decided: _Decided) -> Pairs:
        """Return the candidates above the threshold."""
        first, second, exact = map(device_copies.arrived, decided)
        kept = exact > self._threshold
        weight = np.clip(exact[kept], -1, 1).astype(np.float32)
        return first[kept].astype(np.int32), second[kept].astype(np.int32), weight

    def _unit_rows(self, rows: range) -> torch.Tensor:
        """Return rows in float64 [n, D] on the device, bit for bit those of `unit_rows`."""
        if rows.start not in self._divisors:
            self._divisors[rows.start] = self._sent_out(unit_divisors(self._embeddings, rows)[:, None])
        return self._sent_out(self._embeddings[rows.start : rows.stop]).div_(self._divisors[rows.start])

    def _sent_out(self, values: np.ndarray) -> torch.Tensor:
        """Return a copy on the device, in float64."""
        if self._device.type == "cpu":
            return torch.from_numpy(values.astype(np.float64))
        # Widened over there: half the bytes travel, and a change of type on the way would make the host wait.
        return device_copies.page_locked(values).to(self._device, non_blocking=True).to(torch.float64)


def _flat_nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Return the indices of the true entries of the flattened mask on the CPU, ascending."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))  # 0.3 ms for 4 million, where torch takes 14


def _flat_of_known(mask: torch.Tensor, num: int) -> torch.Tensor:
    """Return the same [num] on any device, which has not to wait to count them."""
    return torch.nonzero_static(mask.flatten(), size=num)[:, 0]
