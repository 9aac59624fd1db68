"""Small values as bytes between the ranks of a run: JSON and arrays, nothing that could run on the other side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_TUPLE, _ARRAY = "__tuple__", "__array__"


def encode(value: Any) -> bytes:
    """Return a value as bytes: None, bool, int, float, str, numeric arrays, and lists, tuples and dicts of these.

    Raises TypeError for anything else, and for a key that is no text.
    """
    arrays: list[bytes] = []
    text = json.dumps(_plain(value, arrays)).encode("ascii")
    return b"".join([len(text).to_bytes(8, "little"), text, *arrays])


def decode(content: bytes) -> Any:
    """Return the value that `encode` was given."""
    length = int.from_bytes(content[:8], "little")
    return _restored(json.loads(content[8 : 8 + length]), _Rest(content, 8 + length))


def _plain(value: Any, arrays: list[bytes]) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        arrays.append(value.tobytes())
        return {_ARRAY: [value.dtype.str, list(value.shape)]}
    if isinstance(value, tuple):
        return {_TUPLE: [_plain(entry, arrays) for entry in value]}
    if isinstance(value, list):
        return [_plain(entry, arrays) for entry in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"a key of {list(value)!r:.80} is no text")
        return {key: _plain(entry, arrays) for key, entry in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} does not travel between ranks")


class _Rest:
    """The bytes of the arrays, taken in their order."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self._at = content, at

    def take(self, dtype: str, shape: list[int]) -> np.ndarray:
        array = np.frombuffer(self._content, np.dtype(dtype), int(np.prod(shape)), self._at).reshape(shape)
        self._at += array.nbytes
        return array


def _restored(value: Any, rest: _Rest) -> Any:
    if isinstance(value, list):
        return [_restored(entry, rest) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_ARRAY}:
        return rest.take(*value[_ARRAY])
    if value.keys() == {_TUPLE}:
        return tuple(_restored(entry, rest) for entry in value[_TUPLE])
    return {key: _restored(entry, rest) for key, entry in value.items()}
