"""Find pictures that are nearly the same, by a hash of their brightness gradients. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

MAX_BITS = 3
"""Hashes of 128 bits that differ in at most this many are taken for the same picture, encoded or scaled again."""

_SIDE = 8
# A run of equal quarters longer than this is a flat background, not a copy.
_NEIGHBORS = 16


def image_hash(rgb: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Return 128 bits: whether brightness rises from each of 8 x 8 places to the right, and downwards."""
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (_SIDE + 1, _SIDE + 1), interpolation=cv2.INTER_AREA).astype(np.int16)
    right = np.packbits(small[:_SIDE, 1:] > small[:_SIDE, :-1])
    down = np.packbits(small[1:, :_SIDE] > small[:-1, :_SIDE])
    return int.from_bytes(right.tobytes(), "little"), int.from_bytes(down.tobytes(), "little")


def near_duplicates(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the pairs [m, 2] (first < second, sorted) of rows of `hashes` [n, 2] that differ in MAX_BITS or less.

    Of four quarters at least one is then equal, so sorting by each finds them all, but for crowds of more than a
    handful of equal quarters, of which only close neighbors are compared. 40 bytes an image beside the hashes.
    """
    quarters = np.ascontiguousarray(hashes).view(np.uint32)  # [n, 4]
    found = [pair for quarter in range(4) for pair in _close_pairs(hashes, quarters[:, quarter])]
    if not found:
        return np.empty((0, 2), dtype=np.int64)
    return np.unique(np.concatenate(found), axis=0)


def _close_pairs(hashes: npt.NDArray[np.uint64], quarter: npt.NDArray[np.uint32]) -> Iterator[npt.NDArray[np.int64]]:
    order = np.argsort(quarter, kind="stable")
    ordered = quarter[order]
    for distance in range(1, min(_NEIGHBORS, len(order) - 1) + 1):
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        if not len(same):
            return
        first, second = order[same], order[same + distance]
        close = _num_bits(hashes[first] ^ hashes[second]) <= MAX_BITS
        pairs = np.stack([first[close], second[close]], axis=1)
        yield np.sort(pairs, axis=1)


def _num_bits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1)
    bits: npt.NDArray[np.int64] = np.unpackbits(octets, axis=1).sum(1)
    return bits
