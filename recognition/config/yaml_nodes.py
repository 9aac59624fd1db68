"""YAML text -> a tree of untyped values that remember where they stand.

Nothing is typed here: `5e-4`, `no`, `010`, `12:30` and `2024-01-01` stay text until a field of the schema says what it
wants, which closes YAML 1.1's guesses. Tags are refused, so no constructor ever runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

import yaml

from recognition.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_VALUES = 10_000
MAX_DEPTH = 20
CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
"""Characters that no path and no name has: controls, line ends, and halves of a pair, which UTF-8 cannot write."""
_LONGEST_KEY = 80
_NULLS = ("", "~", "null", "Null", "NULL")
_IMPLIED_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


@dataclass(frozen=True)
class ScalarValue:
    """A word: `plain` when it was written without quotes."""

    text: str
    plain: bool
    place: str

    @property
    def is_null(self) -> bool:
        """Whether it was left empty or written as null."""
        return self.plain and self.text in _NULLS


@dataclass(frozen=True)
class ListValue:
    """A YAML sequence."""

    items: tuple[Value, ...]
    place: str


@dataclass(frozen=True)
class MappingValue:
    """A YAML mapping; `places` says where each key stands."""

    entries: Mapping[str, Value]
    places: Mapping[str, str]
    place: str


Value = Union[ScalarValue, ListValue, MappingValue]  # noqa: UP007 - the names are forward references at run time


def parse_yaml(text: str, name: str) -> Value:
    """Return the single document of `text`; `name` is the file as shown in places (`name:line`).

    Raises ConfigError for damaged YAML, tags, a duplicate key, or aliases that expand beyond MAX_VALUES.
    """
    try:
        node = yaml.compose(text, Loader=_BoundedLoader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{place}: not valid YAML: {err.problem or err.context}") from err
    except yaml.YAMLError as err:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(err).split())}") from err
    except _TooMuchError as err:
        raise ConfigError(f"{name}: {err}") from err
    if node is None:
        return MappingValue({}, {}, f"{name}:1")
    return _Converter(name).convert(node, depth=0)


class _TooMuchError(Exception):
    """A document has more in it than any config."""


class _BoundedLoader(yaml.BaseLoader):
    """Stops at once when a document has too many values or levels; the library parses about 30,000 a second."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._num_nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._num_nodes += 1
        self._depth += 1
        if self._num_nodes > 2 * MAX_VALUES or self._depth > MAX_DEPTH + 2:
            found = f"nested too deeply; expected at most {MAX_DEPTH} levels"
            if self._depth <= MAX_DEPTH + 2:
                found = f"has more than {MAX_VALUES:,} values; expected a YAML config"
            raise _TooMuchError(found)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Converter:
    """Turns nodes into values, counting them: an alias costs what it expands to."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._num_values = 0

    def convert(self, node: yaml.Node, *, depth: int) -> Value:
        place = self._place(node)
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise ConfigError(f"{place}: aliases expand to more than {MAX_VALUES:,} values; write them out")
        if depth > MAX_DEPTH:
            raise ConfigError(f"{place}: nested deeper than {MAX_DEPTH} levels; check the alias or the brackets")
        if node.tag not in _IMPLIED_TAGS:
            raise ConfigError(f"{place}: found the tag {_short_tag(node.tag)}, expected a plain value; remove the tag")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            return ListValue(tuple(self.convert(item, depth=depth + 1) for item in node.value), place)
        assert isinstance(node, yaml.ScalarNode), f"YAML has no other node than {type(node)}"
        return ScalarValue(str(node.value), plain=node.style is None, place=place)

    def _mapping(self, node: yaml.MappingNode, place: str, depth: int) -> MappingValue:
        entries: dict[str, Value] = {}
        places: dict[str, str] = {}
        for key_node, value_node in node.value:
            key_place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{key_place}: found a list or mapping as a key, expected a name")
            key = str(key_node.value)
            if not key.isprintable() or len(key) > _LONGEST_KEY:
                raise ConfigError(f"{key_place}: found {key[:_LONGEST_KEY]!r} as a key, expected a name")
            if key in entries:
                raise ConfigError(f"{key_place}: {key}: given twice, first at {places[key]}, expected once; keep one")
            entries[key] = self.convert(value_node, depth=depth + 1)
            places[key] = key_place
        return MappingValue(entries, places, place)

    def _place(self, node: yaml.Node) -> str:
        return f"{self._name}:{node.start_mark.line + 1}"


def _short_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def merge(below: MappingValue, above: MappingValue) -> MappingValue:
    """Lay `above` over `below`: mappings merge key by key; everything else is replaced, lists too, and a
    mapping by one that names something."""
    entries = dict(below.entries)
    places = dict(below.places)
    for key, value in above.entries.items():
        old = entries.get(key)
        if isinstance(old, MappingValue):
            if isinstance(value, ScalarValue) and value.is_null:
                continue  # a section whose every line is commented out changes nothing
            if isinstance(value, MappingValue) and "name" not in value.entries:  # another choice starts anew
                value = merge(old, value)
        entries[key] = value
        places[key] = above.places[key]
    return MappingValue(entries, places, above.place)
