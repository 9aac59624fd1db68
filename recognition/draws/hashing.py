"""Random numbers that are pure functions of their counters: no state, so any part can be drawn again anywhere.

The same code runs on NumPy arrays and torch tensors of int64 (both wrap on overflow), with equal results.
"""

from __future__ import annotations

from typing import Any, TypeVar

Integers = TypeVar("Integers", bound=Any)

_WORD = (1 << 64) - 1


def mix64(x: Integers) -> Integers:
    """Return a bijective hash of every int64 in an array or a tensor.

    The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), with its shifts made logical.
    """
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * _signed(0x94D049BB133111EB)
    x = x ^ (x >> 31 & 0x1FFFFFFFF)
    return x


def derive_key(*counters: int) -> int:
    """Return an int64 key that depends on every counter and on their order."""
    key = 0
    for counter in counters:
        key = _mix_word((key + 0x9E3779B97F4A7C15 + (counter & _WORD)) & _WORD)
    return _signed(key)


def _mix_word(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _WORD
    return x ^ x >> 31


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
