"""A choice by name keeps its values, its places, and what a file above it has replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recognition.config.choice import Choice
from recognition.config.loader import dump_config, load_config
from recognition.config.schema import Config
from recognition.errors import ConfigError

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(text: str, name: str = "run.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write_text


def margin_of(path: str, *overrides: str) -> Choice:
    margin = load_config(path, overrides).head.margin
    assert margin is not None
    return margin


def test_settings_are_typed_by_their_look_and_placed(write: Write) -> None:
    margin = margin_of(
        write("head:\n  margin:\n    name: adaface\n    m: 0.4\n    steps: 3\n    on: true\n    word: '5'\n")
    )
    assert margin.name == "adaface"
    assert margin.settings == {"m": 0.4, "steps": 3, "on": True, "word": "5"}
    assert margin.where("m").endswith("run.yaml:4: ")
    assert margin.where("absent").endswith("run.yaml:3: ")


def test_an_override_says_so(write: Write) -> None:
    margin = margin_of(write(""), "head.margin={name: arcface, m: 0.3}")
    assert margin.settings == {"m": 0.3}
    assert margin.where("m") == "override 'head.margin={name: arcface, m: 0.3}': "


def test_another_name_starts_anew_and_the_same_goes_on(write: Write) -> None:
    write("head: {margin: {name: arcface, m: 0.5, gradient: exact}}", "below.yaml")
    assert margin_of(write("base: below.yaml\nhead: {margin: {name: cosface}}")) == {"name": "cosface"}
    changed = margin_of(write("base: below.yaml\nhead: {margin: {m: 0.4}}"))
    assert changed == {"name": "arcface", "m": 0.4, "gradient": "exact"}


def test_a_written_config_reads_back(write: Write) -> None:
    config = load_config(write("head: {margin: {name: adaface, m: 0.4}}"))
    again = load_config(write(dump_config(config), "again.yaml"))
    assert again == config
    assert Config().head.margin is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head: {margin: arcface}", "head.margin: found 'arcface', expected a name and its settings, as {name: x"),
        ("head: {margin: {m: 0.5}}", "head.margin: found a section of keys, expected a name and its settings"),
        ("head: {margin: {name: 3}}", "head.margin: name: found 3, expected text"),
        ("head: {margin: {name: a, m: [1]}}", "m: found a list of 1, expected a number, true, false or a word"),
        ("head: {margin: {name: a, m: }}", "m: found nothing, expected a number, true, false or a word"),
        ("head: {margin: {name: a}, margins: [1, 0.3, 0]}", "head.margins: would be ignored with head.margin"),
        (
            "head: {margin: {name: a}, margin_gradient: exact}",
            "head.margin_gradient: would be ignored with head.margin",
        ),
    ],
)
def test_what_is_no_choice_is_named(write: Write, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(text))
    assert message in str(caught.value)
    assert "run.yaml:1: " in str(caught.value)
