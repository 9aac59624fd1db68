"""How the schema states a key: its default, what it means, its range, and the keys beside which it means nothing.

Everything that is known of a key is in one `key(...)` at its field: the loader checks by it, and `make docs` writes
configs/base.yaml and the table of docs/configs.md from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from recognition.config.schema import Config

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Which values a key may have, and how a message says it. It is not asked about null."""

    holds: Callable[[Any], bool]
    expected: str


@dataclass(frozen=True)
class Rule:
    """What holds among keys: where `when` is true, `text` is what is wrong and what to do.

    `{optim.lr}` in the text becomes the value of that key.
    """

    when: Callable[[Config], bool]
    text: str


@dataclass(frozen=True)
class Key:
    """What is known of a key besides its name, type and default."""

    meaning: str
    """Prose for docs/configs.md and the comments of base.yaml: lower case, no full stop, a page as (docs/data.md)."""
    range: Range | None
    void: tuple[Rule, ...]
    """Where the key would be ignored. A value other than the default is then an error: "would be ignored " + text."""
    clash: tuple[Rule, ...]
    """Where its value cannot go with that of another key."""
    was: tuple[str, ...]
    """Dotted keys that it had in earlier versions; they still load."""


def key(
    default: T,
    meaning: str,
    range: Range | None = None,
    *,
    void: Rule | tuple[Rule, ...] = (),
    clash: Rule | tuple[Rule, ...] = (),
    was: tuple[str, ...] = (),
) -> T:
    """Return the field of a key; see `Key`. The return type is the field's, as that of `dataclasses.field` is."""
    voids = (void,) if isinstance(void, Rule) else void
    clashes = (clash,) if isinstance(clash, Rule) else clash
    stated: Any = field(default=default, metadata={"key": Key(meaning, range, voids, clashes, was)})
    value: T = stated
    return value


def stated(field: Field[Any]) -> Key:
    """Return what the schema says of a field that `key` made."""
    found = field.metadata.get("key")
    assert isinstance(found, Key), f"{field.name}: a field of the schema without key(...)"
    return found


def at_least(low: float) -> Range:
    """Return the range low, ..."""
    return Range(lambda value: value >= low, f"at least {low}")


def above(low: float) -> Range:
    """Return the range of what is larger than `low`."""
    return Range(lambda value: value > low, f"above {low}")


def within(low: int, high: int) -> Range:
    """Return the range low, ..., high."""
    return Range(lambda value: low <= value <= high, f"between {low} and {high:,}")


SHARE = Range(lambda value: 0 <= value <= 1, "between 0 and 1")
BELOW_ONE = Range(lambda value: 0 <= value < 1, "at least 0 and below 1")
SEED = Range(lambda value: 0 <= value < 2**63, "between 0 and 2^63 - 1")


def each(range: Range, expected: str) -> Range:
    """Return the range of lists whose every value is in `range`."""
    return Range(lambda values: all(map(range.holds, values)), expected)
