"""A shuffle of N images that needs no memory: any position of any epoch's order is computed when asked for."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from recognition.draws.hashing import derive_key, mix64

IntArray = npt.NDArray[np.int64]

# Four rounds suffice in theory for large halves; the halves of small sets are tiny, and a round costs microseconds.
_NUM_ROUNDS = 12


class Permutation:
    """A pseudorandom order of range(n), keyed by any integers such as (seed, epoch).

    A Feistel network on pairs (left, right) in Z_a x Z_b with a * b just above n, and cycle walking for the few pairs
    that stand for numbers past the end (Black and Rogaway, CT-RSA 2002). Works for n up to 2^60.
    """

    def __init__(self, n: int, *key: int) -> None:
        assert 0 < n < 1 << 60, f"{n} elements cannot be permuted"
        self.n = n
        self._rows = math.isqrt(n - 1) + 1  # ceil(sqrt(n))
        self._columns = -(-n // self._rows)
        self._round_keys = [derive_key(*key, number) for number in range(_NUM_ROUNDS)]

    def __len__(self) -> int:
        return self.n

    def __call__(self, positions: npt.ArrayLike) -> IntArray:
        """Return the elements standing at `positions` [k], each in [0, n)."""
        elements = self._encipher(np.array(positions, dtype=np.int64, ndmin=1))
        outside = np.flatnonzero(elements >= self.n)
        while outside.size:
            elements[outside] = self._encipher(elements[outside])
            outside = outside[elements[outside] >= self.n]
        return elements

    def _encipher(self, numbers: IntArray) -> IntArray:
        left, right = np.divmod(numbers, self._columns)
        for number, key in enumerate(self._round_keys):
            if number % 2 == 0:
                left = (left + _draw(right, key, self._rows)) % self._rows
            else:
                right = (right + _draw(left, key, self._columns)) % self._columns
        return left * self._columns + right


def _draw(values: IntArray, key: int, bound: int) -> IntArray:
    """Hash `values` into [0, bound) by scaling 31 random bits; bound stays below 2^31."""
    return (mix64(values ^ key) >> 33 & 0x7FFFFFFF) * bound >> 31
