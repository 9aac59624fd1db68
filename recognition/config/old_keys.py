"""Keys under the names they had in earlier versions, so that old configs and the config.yaml of old runs still load."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

from recognition.config.fields import schema_keys
from recognition.config.yaml_nodes import MappingValue, Value
from recognition.errors import ConfigError

logger = logging.getLogger(__name__)


@functools.cache
def old_keys() -> Mapping[str, str]:
    """Return dotted key of an earlier version -> the dotted key it is now."""
    return {old: key for key, stated in schema_keys().items() for old in stated.was}


def renew(tree: MappingValue) -> MappingValue:
    """Return one file's tree with its old keys under their new names; a line of the log names each.

    Raises ConfigError when a file has a key under both names.
    """
    for old, new in old_keys().items():
        found = _find(tree, old)
        if found is None:
            continue
        value, place = found
        other = _find(tree, new)
        if other is not None:
            raise ConfigError(f"{place}: {old}: is {new} now, and that is given too, at {other[1]}; keep {new}")
        logger.warning("%s: %s is now %s; it is read as that", place, old, new)
        tree = _placed(_without(tree, old), new, value, place)
    return tree


def _find(tree: MappingValue, key: str) -> tuple[Value, str] | None:
    name, _, rest = key.partition(".")
    value = tree.entries.get(name)
    if value is None:
        return None
    if not rest:
        return value, tree.places[name]
    return _find(value, rest) if isinstance(value, MappingValue) else None


def _without(tree: MappingValue, key: str) -> MappingValue:
    name, _, rest = key.partition(".")
    entries = dict(tree.entries)
    value = entries.pop(name)
    if rest and isinstance(value, MappingValue):
        entries[name] = _without(value, rest)
    return MappingValue(entries, tree.places, tree.place)


def _placed(tree: MappingValue, key: str, value: Value, place: str) -> MappingValue:
    name, _, rest = key.partition(".")
    if rest:
        below = tree.entries.get(name)
        section = below if isinstance(below, MappingValue) else MappingValue({}, {}, place)
        value = _placed(section, rest, value, place)
    places = {**tree.places, name: tree.places.get(name, place) if rest else place}
    return MappingValue({**tree.entries, name: value}, places, tree.place)
