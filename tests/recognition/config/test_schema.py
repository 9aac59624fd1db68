"""A key is stated once: what the schema says of it is checked, written into the docs, and nowhere said again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from recognition.config.checks import check_config
from recognition.config.fields import field_types, flatten, schema_keys
from recognition.config.generate import base_yaml, with_table
from recognition.config.schema import Config
from tests.helpers.places import ROOT

NEW_KEY = """    warmth: float = key(
        0.25,
        "how warm the optimizer is",
        BELOW_ONE,
        void=Rule(lambda c: c.optim.optimizer == "sgd", "with optim.optimizer sgd; remove this key"),
        was=("optim.heat",),
    )
    betas: tuple"""
ASK = """
import logging, sys
from recognition.config.generate import base_yaml, with_table
from recognition.config.loader import dump_config, load_config
from recognition.errors import ConfigError
logging.basicConfig(stream=sys.stdout, format="%(message)s")
page = sys.argv[1]
adamw = ["optim.optimizer=adamw", "optim.heat=0.5"]
for overrides in (adamw, ["optim.warmth=2"], ["optim.warmth=0.5"], ["optim.warmt=1"]):
    try:
        config = load_config("mine", overrides)
        print("loaded", config.optim.warmth, "warmth: 0.5" in dump_config(config))
    except ConfigError as err:
        print(err)
print([line for line in base_yaml().splitlines() if "warmth" in line][0])
print([line for line in with_table(open(page).read()).splitlines() if "warmth" in line][0])
"""


def test_the_files_for_people_are_what_the_schema_says() -> None:
    """`make docs` writes them anew."""
    assert (ROOT / "configs/base.yaml").read_text(encoding="utf-8") == base_yaml()
    page = (ROOT / "docs/configs.md").read_text(encoding="utf-8")
    assert page == with_table(page)


def test_a_key_is_added_in_one_place(tmp_path: Path) -> None:
    for name in ("recognition/config", "recognition/work"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for path in (ROOT / "recognition").glob("*.py"):
        shutil.copy(path, tmp_path / "recognition")
    schema = tmp_path / "recognition/config/schema_optim.py"
    schema.write_text(schema.read_text(encoding="utf-8").replace("    betas: tuple", NEW_KEY, 1), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("seed: 1\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(ROOT / "docs/configs.md")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "override 'optim.heat=0.5': optim.heat is now optim.warmth; it is read as that",
        "loaded 0.5 True",
        "override 'optim.warmth=2': optim.warmth: found 2, expected at least 0 and below 1; correct it",
        "override 'optim.warmth=0.5': optim.warmth: would be ignored with optim.optimizer sgd; remove this key",
        "override 'optim.warmt=1': optim.warmt: unknown key; did you mean 'optim.warmth'?",
        "  warmth: 0.25              # how warm the optimizer is",
        "| `optim.warmth` | `0.25` | at least 0 and below 1 | how warm the optimizer is |",
    ]


def test_defaults_are_within_their_ranges_and_break_no_rule() -> None:
    check_config(Config())


@pytest.mark.parametrize("key", schema_keys())
def test_a_key_is_described_in_plain_words(key: str) -> None:
    stated = schema_keys()[key]
    assert stated.meaning
    assert not stated.meaning.endswith(".")
    for page in re.findall(r"docs/\w+\.md", stated.meaning):
        assert (ROOT / page).is_file()
    for rule in (*stated.void, *stated.clash):
        assert rule.when(Config()) in (True, False)
        for named in re.findall(r"\b(?:data|augment|head|optim|train|validation|log)\.\w+", rule.text):
            assert named in flatten(Config()), "a rule speaks of a key that is not there"


def test_every_choice_is_named_where_the_key_is_described() -> None:
    section_types = {name: kind for name, kind in field_types(Config).items() if hasattr(kind, "__dataclass_fields__")}
    for section, cls in section_types.items():
        for name, kind in field_types(cls).items():
            if get_origin(kind) is Literal:
                meaning = schema_keys()[f"{section}.{name}"].meaning
                assert all(re.search(rf"\b{choice}\b", meaning) for choice in get_args(kind)), f"{section}.{name}"
