"""Whether a config's values may be, alone and together. A value that would be ignored is an error, not a surprise.

The ranges and rules are stated at the keys, in the schema.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import Any

from recognition.config.fields import flatten, schema_keys
from recognition.config.schema import Config
from recognition.errors import ConfigError


def check_config(config: Config, places: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError for a value out of range, for keys that others have made void, or for keys that clash.

    All void keys are in one message. `places` says where each dotted key was set; a key not in it is at its default.
    """
    places = places or {}
    flat = flatten(config)
    for key, stated in schema_keys().items():
        value = flat[key]
        if stated.range is not None and value is not None and not stated.range.holds(value):
            found = f"found {_spell(value)}, expected {stated.range.expected}; correct it"
            raise ConfigError(f"{_place(places, key)}{key}: {found}")
    void = _void_keys(config, flat)
    if void:
        raise ConfigError("; also ".join(_void_line(text, keys, places) for text, keys in void.items()))
    for key, text in _clashes(config):
        raise ConfigError(f"{_place(places, key)}{key}: {text}")


def _void_keys(config: Config, flat: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what makes keys void -> those keys. One at its default cannot be missed when it is ignored."""
    void: dict[str, list[str]] = {}
    defaults = flatten(Config())
    for key, stated in schema_keys().items():
        if flat[key] != defaults[key]:
            for rule in stated.void:
                if rule.when(config):
                    void.setdefault(_fill(rule.text, config), []).append(key)
                    break
    return void


def _void_line(text: str, keys: list[str], places: Mapping[str, str]) -> str:
    named, last = [], ""
    for key in keys:
        place = _place(places, key)
        named.append(key if place == last else f"{place}{key}")
        last = place
    text = text if len(keys) == 1 else text.replace("this key", "these keys")
    return f"{', '.join(named)}: would be ignored {text}"


def _clashes(config: Config) -> Iterator[tuple[str, str]]:
    for key, stated in schema_keys().items():
        for rule in stated.clash:
            if rule.when(config):
                yield key, _fill(rule.text, config)


def _fill(text: str, config: Config) -> str:
    return _Words().vformat(text, (), vars(config))


class _Words(string.Formatter):
    """Fills the values of keys into a rule's text, spelled as a config spells them."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return str(value) if isinstance(value, str) else _spell(value)


def _place(places: Mapping[str, str], key: str) -> str:
    return f"{places[key]}: " if key in places else ""


def _spell(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_spell(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else repr(value)
