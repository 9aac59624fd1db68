"""The order of an epoch as a function from positions to images, so that any part of it can be asked for alone."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from recognition.draws.hashing import derive_key
from recognition.draws.permutation import IntArray, Permutation

WINDOW_BLOCKS = 64
"""How many blocks are mixed with each other when blocks are shuffled instead of images."""


class EpochOrder(Protocol):
    """Which image stands where in one epoch."""

    def __call__(self, positions: npt.ArrayLike) -> IntArray:
        """Return the images at `positions` [k]."""

    def about_to_read(self, position: int) -> list[range]:
        """Return the neighboring images that reading from `position` on will need, when a new window begins there."""


class Order(Protocol):
    """The orders of all epochs."""

    def epoch(self, epoch: int) -> EpochOrder:
        """Return the order of one epoch, a pure function of (seed, epoch)."""


class ImageOrder:
    """Every image anywhere: a uniform shuffle, or one of blocks of `block` neighbors, which disks prefer."""

    def __init__(self, num_images: int, seed: int, *, block: int = 1) -> None:
        self._num_images = num_images
        self._seed = seed
        self._block = block

    def epoch(self, epoch: int) -> EpochOrder:
        if self._block == 1:
            return _Uniform(self._num_images, self._seed, epoch)
        return _Blocks(self._num_images, self._block, self._seed, epoch)


class _Uniform(Permutation):
    def about_to_read(self, position: int) -> list[range]:
        return []


class _Blocks:
    """Blocks of neighbors in random order, and a random order within each window of WINDOW_BLOCKS blocks.

    The cuts between blocks move every epoch. Images that fill no block go with the last window.
    """

    def __init__(self, num_images: int, block: int, *key: int) -> None:
        self._num_images = num_images
        self._block = block
        self._key = key
        self._num_blocks = num_images // block
        self._window = WINDOW_BLOCKS * block
        self._num_windows = max(1, self._num_blocks // WINDOW_BLOCKS)
        self._shift = derive_key(*key, 1) % num_images
        self._blocks = Permutation(self._num_blocks, *key, 2) if self._num_blocks else None

    def __call__(self, positions: npt.ArrayLike) -> IntArray:
        at = np.array(positions, dtype=np.int64, ndmin=1)
        windows = np.minimum(at // self._window, self._num_windows - 1)
        places = np.empty_like(at)
        for window in np.unique(windows).tolist():
            rows = windows == window
            places[rows] = self._within(window, at[rows] - window * self._window)
        return (places + self._shift) % self._num_images

    def about_to_read(self, position: int) -> list[range]:
        if self._blocks is None:
            return []
        window = min(position // self._window, self._num_windows - 1)
        first = window * WINDOW_BLOCKS
        stop = self._num_blocks if window == self._num_windows - 1 else first + WINDOW_BLOCKS
        starts = (self._blocks(np.arange(first, stop)) * self._block + self._shift) % self._num_images
        return [range(start, min(start + self._block, self._num_images)) for start in starts.tolist()]

    def _within(self, window: int, offsets: IntArray) -> IntArray:
        """Return the places before the shift of positions counted from the start of a window."""
        is_last = window == self._num_windows - 1
        size = self._num_images - window * self._window if is_last else self._window
        mixed = Permutation(size, *self._key, 3, window)(offsets)
        blocks, inside = np.divmod(mixed, self._block)
        blocks += window * WINDOW_BLOCKS
        whole = blocks < self._num_blocks
        if self._blocks is not None:
            blocks[whole] = self._blocks(blocks[whole])
        return blocks * self._block + inside


class IdentityOrder:
    """Runs of `per_identity` images of one person, for losses on pairs: P persons of K images make a batch of P x K.

    Persons come in a random order, all of them before any comes again; each shows its images in a random order of its
    own, over again when it has fewer than K. An epoch is as many images long as the set; a person with many images
    shows only some of them in it, others in the next.
    """

    def __init__(self, labels: IntArray, seed: int, *, per_identity: int) -> None:
        self._by_identity = np.argsort(labels, kind="stable")
        present, counts = np.unique(labels, return_counts=True)
        self._starts = np.cumsum(counts) - counts
        self._counts = counts
        self._num_identities = len(present)
        self._seed = seed
        self.per_identity = per_identity

    def epoch(self, epoch: int) -> EpochOrder:
        return _IdentityEpoch(self, epoch)

    def images(self, epoch: int, positions: IntArray) -> IntArray:
        runs, inside = np.divmod(positions, self.per_identity)
        rounds, places = np.divmod(runs, self._num_identities)
        found = np.empty_like(positions)
        for number in np.unique(rounds).tolist():
            rows = rounds == number
            persons = Permutation(self._num_identities, self._seed, epoch, 4, number)(places[rows])
            found[rows] = self._draw(persons, epoch, number, inside[rows])
        return found

    def _draw(self, persons: IntArray, epoch: int, number: int, inside: IntArray) -> IntArray:
        drawn = np.empty_like(persons)
        for person in np.unique(persons).tolist():
            rows = persons == person
            size = int(self._counts[person])
            own = Permutation(size, self._seed, epoch, 5, number, person)(inside[rows] % size)
            drawn[rows] = self._by_identity[self._starts[person] + own]
        return drawn


class _IdentityEpoch:
    def __init__(self, order: IdentityOrder, epoch: int) -> None:
        self._order, self._epoch = order, epoch

    def __call__(self, positions: npt.ArrayLike) -> IntArray:
        return self._order.images(self._epoch, np.array(positions, dtype=np.int64, ndmin=1))

    def about_to_read(self, position: int) -> list[range]:
        return []
