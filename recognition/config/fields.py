"""Untyped values -> the dataclasses of the schema, driven by the fields' annotations."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import math
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from recognition.config.arcface_keys import COUNTERPARTS
from recognition.config.choice import Choice
from recognition.config.keys import Key, stated
from recognition.config.schema import SECTION_VOID, Config
from recognition.config.stages import Stage, read_stage
from recognition.config.yaml_nodes import CONTROL, ListValue, MappingValue, ScalarValue, Value
from recognition.errors import ConfigError
from recognition.registry import nearest

T = TypeVar("T")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 40  # characters; Python refuses to parse an integer of over 4300 digits
_LONGEST_TEXT = 4096
_SHOWN = 80
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")


def field_types(cls: Any) -> Mapping[str, Any]:
    """Return a schema class's field names and resolved types, in order."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def all_keys() -> tuple[str, ...]:
    """Return every dotted key of the schema, in order: seed, ..., data.rec, ..., log.tensorboard."""
    return tuple(schema_keys())


@functools.cache
def schema_keys() -> Mapping[str, Key]:
    """Return what the schema states of every dotted key, in order."""
    found: dict[str, Key] = {}
    for field in dataclasses.fields(Config):
        section = getattr(Config(), field.name)
        if dataclasses.is_dataclass(section):
            inside = {f"{field.name}.{inner.name}": stated(inner) for inner in dataclasses.fields(section)}
            if field.name in SECTION_VOID:
                rule = SECTION_VOID[field.name]
                inside = {
                    name: key if name == f"{field.name}.weight" else dataclasses.replace(key, void=(rule, *key.void))
                    for name, key in inside.items()
                }
            found |= inside
        else:
            found[field.name] = stated(field)
    return found


def flatten(config: Config) -> dict[str, Any]:
    """Return the config's values by dotted key."""
    return _flatten(config, "")


def _flatten(section: Any, prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in field_types(type(section)):
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    """Return a value without what the config knows of its places."""
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return dict(value) if isinstance(value, (Choice, Stage)) else value


def build(cls: type[T], tree: MappingValue, places: dict[str, str], prefix: str = "") -> T:
    """Return `cls` with the tree's values; the place of each value set is entered in `places` by dotted key."""
    kinds = field_types(cls)
    values: dict[str, Any] = {}
    for name, value in tree.entries.items():
        place = tree.places[name]
        key = prefix + name
        if name not in kinds:
            raise ConfigError(f"{place}: {key}: unknown key{suggest(key)}")
        if dataclasses.is_dataclass(kinds[name]):
            section = _section(value, place, key)
            values[name] = build(kinds[name], section, places, f"{key}.")
        else:
            values[name] = convert(value, kinds[name], f"{place}: {key}")
            places[key] = place
    return cls(**values)


def _section(value: Value, place: str, key: str) -> MappingValue:
    if isinstance(value, MappingValue):
        return value
    if isinstance(value, ScalarValue) and value.is_null:
        return MappingValue({}, {}, place)
    raise ConfigError(f"{place}: {key}: found {_found(value)}, expected a section of keys")


def suggest(key: str) -> str:
    """Return the valid key nearest to `key`: the same section first, then the same name anywhere."""
    section, _, name = key.rpartition(".")
    if name in COUNTERPARTS and name != COUNTERPARTS[name].rpartition(".")[2]:
        return f"; arcface_torch's {name!r} is {COUNTERPARTS[name]!r} here"
    inside = [valid for valid in all_keys() if section and valid.startswith(f"{section}.")]
    by_name = {valid.rpartition(".")[2]: valid for valid in all_keys()}
    close = difflib.get_close_matches(key, inside, n=1, cutoff=0.75)
    if not close:
        close = [by_name[match] for match in difflib.get_close_matches(name, by_name, n=1, cutoff=0.75)]
    if not close:
        close = difflib.get_close_matches(key, (*all_keys(), *field_types(Config)), n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    names = [valid.rpartition(".")[2] for valid in inside] or list(field_types(Config))
    return f"; expected one of {', '.join(names)}"


def convert(value: Value, kind: Any, place: str) -> Any:
    """Return `value` as the annotation `kind` wants it; `place` opens the message of a ConfigError."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (option for option in get_args(kind) if option is not type(None))
        if isinstance(value, ScalarValue) and value.is_null:
            return None
        return convert(value, inner, place)
    if origin is tuple:
        return _tuple(value, get_args(kind), place)
    if kind is Choice:
        return _choice(value, place)
    if kind is Stage:
        return _stage(value, place)
    if not isinstance(value, ScalarValue):
        raise ConfigError(f"{place}: found {_found(value)}, expected {_describe(kind)}")
    if origin is Literal:
        return _literal(value, get_args(kind), place)
    return _scalar(value, kind, place)


def _tuple(value: Value, kinds: tuple[Any, ...], place: str) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        if not isinstance(value, ListValue):
            raise ConfigError(f"{place}: found {_found(value)}, expected a list such as [a, b]")
        return tuple(convert(item, kinds[0], place) for item in value.items)
    if not isinstance(value, ListValue) or len(value.items) != len(kinds):
        raise ConfigError(f"{place}: found {_found(value)}, expected a list of {len(kinds)} numbers")
    return tuple(convert(item, kind, place) for item, kind in zip(value.items, kinds))


def _choice(value: Value, place: str) -> Choice:
    if not isinstance(value, MappingValue) or "name" not in value.entries:
        raise ConfigError(f"{place}: found {_found(value)}, expected a name and its settings, as {{name: x, y: 0.5}}")
    values = {key: _by_look(entry, f"{value.places[key]}: {key}") for key, entry in value.entries.items()}
    if not isinstance(values["name"], str):
        raise ConfigError(f"{place}: name: found {values['name']!r}, expected text; correct it")
    return Choice(values, {**value.places, "": value.place})


def _stage(value: Value, place: str) -> Stage:
    if not isinstance(value, MappingValue):
        raise ConfigError(f"{place}: found {_found(value)}, expected a mapping such as {{until_epoch: 2, scale: 16}}")
    values = {key: _as_looks(entry, f"{value.places[key]}: stages: {key}") for key, entry in value.entries.items()}
    return read_stage(values, value.places, value.place)


def _as_looks(value: Value, place: str) -> Any:
    """Return a value of a stage: a number, a list or a mapping of them."""
    if isinstance(value, ListValue):
        return [_as_looks(item, place) for item in value.items]
    if isinstance(value, MappingValue):
        return {key: _as_looks(entry, f"{place}: {key}") for key, entry in value.entries.items()}
    return _by_look(value, place)


def _by_look(value: Value, place: str) -> float | bool | str:
    """Return what a setting looks like: the schema does not know its type, its owner checks it."""
    if not isinstance(value, ScalarValue) or value.is_null:
        raise ConfigError(f"{place}: found {_found(value)}, expected a number, true, false or a word; correct it")
    kinds: tuple[type, ...] = (int, float, bool, str) if value.plain else (str,)
    for kind in kinds[:-1]:
        with contextlib.suppress(ConfigError):
            found: float | bool | str = _scalar(value, kind, place)
            return found
    text: str = _scalar(value, str, place)
    return text


def _literal(value: ScalarValue, choices: tuple[str, ...], place: str) -> str:
    if value.text in choices:
        return value.text
    found = f"{place}: found {value.text[:_SHOWN]!r}, expected one of {', '.join(choices)}"
    hint = nearest(value.text[:_SHOWN], choices)
    raise ConfigError(found + (hint if "did you mean" in hint else ""))


def _scalar(value: ScalarValue, kind: Any, place: str) -> Any:
    if kind is str and not value.is_null:
        if len(value.text) > _LONGEST_TEXT or CONTROL.search(value.text):
            found = repr(value.text[:_SHOWN])
            raise ConfigError(f"{place}: found {found}, expected one line of at most {_LONGEST_TEXT} characters")
        return value.text
    if kind is bool and value.plain and value.text in ("true", "false", "True", "False"):
        return value.text.lower() == "true"
    if kind is int and value.plain and len(value.text) <= _LONGEST_NUMBER and _INTEGER.fullmatch(value.text):
        return int(value.text)
    if kind is float and value.plain and _NUMBER.fullmatch(value.text) and not _LEADING_ZERO.fullmatch(value.text):
        number = float(value.text)
        if math.isfinite(number):
            return number
    hint = "; correct it"
    if kind in (int, float) and not value.plain:
        hint = "; remove the quotes"
    elif kind in (int, float) and _LEADING_ZERO.fullmatch(value.text):
        hint = "; remove the leading zero"
    raise ConfigError(f"{place}: found {_found(value)}, expected {_describe(kind)}{hint}")


def _is_typed(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) or text in ("true", "false", "True", "False")


def _found(value: Value) -> str:
    if isinstance(value, MappingValue):
        return "a section of keys"
    if isinstance(value, ListValue):
        return f"a list of {len(value.items)}"
    if value.is_null:
        return "nothing"
    text = value.text[:_SHOWN]
    return text if value.plain and _is_typed(value.text) else repr(text)


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    names = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    return names[kind]
