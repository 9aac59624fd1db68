"""decisions.jsonl: what clean_faces.py decided, a JSON object a picture; written and read here alone. Torch-free."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recognition.errors import DataError
from recognition.work.inputs import require_plain
from recognition.work.old_words import current_word
from recognition.work.strict_json import parse_json

KINDS = ("keep", "drop", "move")
MAX_BESIDE = 3
"""Faces of an identity that a decision is shown beside."""

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "picture": str,
    "identity": str,
    "decision": str,
    "to": (str, type(None)),
    "reason": str,
    "score": (int, float, type(None)),
    "doubt": (int, float),
    "step": str,
    "beside": list,
}
_OPTIONAL = ("quality", "risk", "twin")


@dataclass(frozen=True)
class Decision:
    """What was decided about a picture; `beside` are faces at the center of `to`, or else of `identity`.

    `decision` is one of KINDS, `to` the identity of a move and else None; `score` the cosine that decided, if one did;
    `doubt` is 1 on the threshold and 0 far from it.
    """

    picture: str
    identity: str
    decision: str
    to: str | None
    reason: str
    score: float | None
    doubt: float
    step: str
    beside: tuple[str, ...]
    quality: float | None = None
    """Of the face, where quality.npy lies beside the embeddings."""
    risk: float | None = None
    """The probability that the decision is wrong, 0 to 1, where the set's scores say it."""
    twin: str | None = None
    """The picture that stays in place of a near-duplicate."""

    @property
    def target(self) -> str:
        """The identity that it moves to, or else lies in; the faces beside it are this one's."""
        return self.identity if self.to is None else self.to

    @property
    def final_identity(self) -> str | None:
        """The identity that the picture ends in; None when it is dropped."""
        return None if self.decision == "drop" else self.target


_MAX_LINE = 1 << 20  # characters


def render_decision(decision: Decision) -> str:
    """Return a decision as its line of decisions.jsonl, which is ASCII; DataError when no reader would take it."""
    content = {name: getattr(decision, name) for name in _FIELDS} | {"beside": list(decision.beside)}
    content |= {name: value for name in _OPTIONAL if (value := getattr(decision, name)) is not None}
    if (problem := _problem(content)) is not None:
        raise DataError(f"picture {decision.picture!r}: {problem}; embed a folder whose pictures have such names")
    return json.dumps(content) + "\n"


def read_decisions(path: Path) -> Iterator[Decision]:
    """Yield the decisions of a decisions.jsonl in its order. Raises DataError naming the line that is wrong."""
    require_plain(path)
    try:
        with open(path, encoding="utf-8") as handle:
            for number, line in enumerate(iter(lambda: handle.readline(_MAX_LINE), ""), 1):
                yield parse_decision(f"{path}:{number}", line)
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(
            f"{path}: cannot be read ({err}); expected the decisions of clean_faces.py; check the folder"
        ) from err


def parse_decision(place: str, line: str | bytes) -> Decision:
    """Return the decision of a line of any version's decisions.jsonl; DataError with `place` when it is none."""
    try:
        content: Any = parse_json(line)
    except (ValueError, RecursionError) as err:
        raise DataError(
            f"{place}: is not JSON ({err}); expected one object per line; let clean_faces.py write it"
        ) from err
    if not isinstance(content, dict) or not _FIELDS.keys() <= content.keys():
        start = line.strip()[:80]
        raise DataError(f"{place}: {start!r}; expected an object with {', '.join(_FIELDS)}; fix the line")
    if (problem := _problem(content)) is not None:
        raise DataError(f"{place}: {problem}; fix the line")
    values = {name: content[name] for name in _FIELDS}
    values |= {name: current_word(values[name]) for name in ("reason", "step")}
    values |= {name: content.get(name) for name in _OPTIONAL}
    return Decision(**{**values, "beside": tuple(values["beside"])})


def _problem(content: dict[str, Any]) -> str | None:
    """Return what is wrong with the values of a line and what was expected; None when nothing is."""
    for name, types in _FIELDS.items():
        if not isinstance(content[name], types) or isinstance(content[name], bool):
            return f"{name} is {content[name]!r}; expected {_spelled(types)}"
    decision, to, score, beside = (content[name] for name in ("decision", "to", "score", "beside"))
    if decision not in KINDS:
        return f"decision is {decision!r}; expected {', '.join(KINDS)}"
    if (decision == "move") != (to is not None):
        return f"decision is {decision} and to is {to!r}; expected an identity for a move and null otherwise"
    if not 0 <= content["doubt"] <= 1:
        return f"doubt is {content['doubt']}; expected 0 to 1"
    if score is not None and not math.isfinite(score):
        return f"score is {score}; expected a finite number or null"
    if (problem := _optional_problem(content)) is not None:
        return problem
    if len(beside) > MAX_BESIDE or not all(isinstance(name, str) for name in beside):
        return f"beside is not a list of at most {MAX_BESIDE} pictures"
    for name in (content["picture"], *beside, *((content["twin"],) if content.get("twin") is not None else ())):
        if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
            return f"{name!r} leaves the folder of faces; expected a path below it"
    return None


def _optional_problem(content: dict[str, Any]) -> str | None:
    """Return what is wrong with the values that a line may leave out."""
    for name, least, most in (("quality", -math.inf, math.inf), ("risk", 0, 1)):
        value = content.get(name)
        if value is not None and not (type(value) in (int, float) and math.isfinite(value) and least <= value <= most):
            return f"{name} is {value!r:.40}; expected a finite number{' from 0 to 1' if most == 1 else ''} or none"
    if not isinstance(content.get("twin"), (str, type(None))):
        return f"twin is {content['twin']!r:.40}; expected text or null"
    return None


def _spelled(types: type | tuple[type, ...]) -> str:
    words = {str: "text", int: "a number", float: "a number", list: "a list", type(None): "null"}
    return " or ".join(dict.fromkeys(words[kind] for kind in (types if isinstance(types, tuple) else (types,))))
