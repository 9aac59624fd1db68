"""Write what people read about the keys from the schema: configs/base.yaml and the table of docs/configs.md.

    python -m recognition.config.generate            (make docs)

A test compares both files with what this would write.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from recognition.config.fields import flatten, schema_keys
from recognition.config.loader import ROOT
from recognition.config.schema import Config

_WIDTH = 120
_COMMENT_AT = 28
_BASE_HEAD = """\
# Every key at its default, written from recognition/config/schema.py by `make docs`. A config names this file as its
# base and states what differs:
#
#     base: base.yaml
#     data: {rec: /data/faces}
#
# Mappings merge, lists replace. On the command line the same keys are dotted: optim.lr=0.2 validation.val_targets=[lfw]
"""
_TABLE_BEGIN, _TABLE_END = "<!-- the table is written by make docs -->\n", "<!-- end of the table -->\n"


def main() -> int:
    """Write both files and return the exit status."""
    page = ROOT / "docs" / "configs.md"
    (ROOT / "configs" / "base.yaml").write_text(base_yaml(), encoding="utf-8")
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def base_yaml() -> str:
    """Return configs/base.yaml: every key at its default, with its meaning as a comment."""
    flat, lines = flatten(Config()), [_BASE_HEAD]
    section = ""
    for key, stated in schema_keys().items():
        above, _, name = key.rpartition(".")
        if above != section:
            section = above
            lines += ["", *_commented(f"{section}:", _section_words(section))]
        indent = "  " if section else ""
        lines += _commented(f"{indent}{name}: {_yaml(flat[key])}", stated.meaning)
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Return the text of docs/configs.md with the table of all keys in its place."""
    before, begin, rest = page.partition(_TABLE_BEGIN)
    _, end, after = rest.partition(_TABLE_END)
    assert begin and end, "docs/configs.md: the two comments around the table are missing"
    return before + begin + "\n".join(_table()) + "\n" + end + after


def _table() -> Iterator[str]:
    flat = flatten(Config())
    yield "| key | default | range | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, stated in schema_keys().items():
        meaning = re.sub(r"\(docs/(\w+\.md)\)", r"([\1](\1))", stated.meaning)
        expected = stated.range.expected if stated.range is not None else ""
        yield f"| `{key}` | `{_yaml(flat[key])}` | {expected} | {meaning} |"


def _commented(code: str, words: str) -> list[str]:
    """Return a line of YAML with its comment, continued in further lines below it."""
    start = max(_COMMENT_AT, len(code) + 2)
    first, *rest = textwrap.wrap(words, _WIDTH - start - 2, break_long_words=False, break_on_hyphens=False)
    return [f"{code:<{start}}# {first}", *(f"{'':<{start}}# {line}" for line in rest)]


def _section_words(section: str) -> str:
    words = (type(getattr(Config(), section)).__doc__ or "").strip().removesuffix(".")
    return words[0].lower() + words[1:]


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=_WIDTH).removesuffix("...\n").strip()


if __name__ == "__main__":
    sys.exit(main())
