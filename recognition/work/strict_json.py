"""JSON from a file that anybody may have written: no key twice, no number that is none. Torch-free."""

from __future__ import annotations

import json
import math
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises ValueError for what is no JSON, for a key that comes twice in an object, of which readers take one or the
    other, and for NaN and infinite numbers, however they are spelled; RecursionError for one that nests too deep.
    """
    return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unrepeated)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is larger than any number")
    return value


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found
