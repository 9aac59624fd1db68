"""Random numbers that are pure functions of their counters: no state, so any part can be drawn again anywhere.

The same code runs on NumPy arrays and torch tensors of int64 (both wrap on overflow), with equal results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Integers = TypeVar("Integers", bound=Any)

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio
_OFFSET = 0x632BE59BD9B4E019


def mix64(x: Integers) -> Integers:
    """Return a bijective hash of every int64 in an array or a tensor.

    The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), with its shifts made logical.
    """
    return _finalize(x, _as_it_is)


def mix(values: Integers, *keys: int) -> Integers:
    """Return a number in [0, 2^63) that looks random for each int64 of an array or a tensor under `keys`."""
    for key in keys:
        values = mix64(values + key_of(key))
    values = values & 0x7FFFFFFFFFFFFFFF
    return values


def key_of(key: int) -> int:
    """Return the int64 that `mix` adds for one of its keys."""
    return _signed((key * _GOLDEN + _OFFSET ^ 1 << 63) & _WORD)


def derive_key(*counters: int) -> int:
    """Return an int64 key that depends on every counter and on their order."""
    key = 0
    for counter in counters:
        key = _finalize((key + _GOLDEN + (counter & _WORD)) & _WORD, _wrapped)
    return _signed(key)


def _finalize(x: Integers, wrap: Callable[[Integers], Integers]) -> Integers:
    x = wrap((x ^ (x >> 30 & 0x3FFFFFFFF)) * _signed(0xBF58476D1CE4E5B9))
    x = wrap((x ^ (x >> 27 & 0x1FFFFFFFFF)) * _signed(0x94D049BB133111EB))
    x = x ^ (x >> 31 & 0x1FFFFFFFF)
    return x


def _as_it_is(x: Integers) -> Integers:
    return x  # int64 arrays and tensors wrap by themselves


def _wrapped(x: int) -> int:
    return x & _WORD


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
