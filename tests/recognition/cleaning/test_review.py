"""A review changes exactly the pictures it names."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from recognition.cleaning.decision_file import read_decisions
from recognition.cleaning.review import Verdict, apply_review, read_review
from recognition.errors import DataError


def _line(picture: str, decision: str = "keep", to: str | None = None) -> dict[str, Any]:
    identity = picture.split("/")[0]
    return {
        "picture": picture,
        "identity": identity,
        "decision": decision,
        "to": to,
        "reason": "far_from_center",
        "score": 0.5,
        "doubt": 0.9,
        "step": "far",
        "beside": [f"{to or identity}/0.jpg"],
    }


LINES = [
    _line("a/0.jpg"),
    _line("a/1.jpg", "drop"),
    _line("a/2.jpg", "move", "b"),
    _line("b/0.jpg"),
    _line("b/<i>\"'.jpg", "drop"),
    _line("c/0.jpg", "move", "c (2)"),
]


@pytest.fixture
def decisions(tmp_path: Path) -> Path:
    path = tmp_path / "decisions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def _apply(decisions: Path, review: dict[str, Verdict]) -> list[dict[str, Any]]:
    handle = io.StringIO()
    apply_review(decisions, handle, review, Path("review.json"))
    return [json.loads(line) for line in handle.getvalue().splitlines()]


def test_exactly_the_named_pictures_change(decisions: Path, tmp_path: Path) -> None:
    review = {
        "a/0.jpg": Verdict("drop", None),
        "a/1.jpg": Verdict("keep", None),
        "a/2.jpg": Verdict("move", "c (2)"),
        "b/<i>\"'.jpg": Verdict("move", "b"),
    }
    found = _apply(decisions, review)
    changed = {"reason": "reviewed", "step": "review", "doubt": 0.0}
    assert found == [
        {**LINES[0], **changed, "decision": "drop"},
        {**LINES[1], **changed, "decision": "keep"},
        {**LINES[2], **changed, "to": "c (2)", "beside": ["c (2)/0.jpg"]},
        LINES[3],
        {**LINES[4], **changed, "decision": "keep"},  # moved to where it lies
        LINES[5],
    ]
    (tmp_path / "again.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
    assert _apply(tmp_path / "again.jsonl", review) == found
    assert len(list(read_decisions(tmp_path / "again.jsonl"))) == len(LINES)


def test_a_review_saved_from_a_page_of_an_older_version_is_applied_to_its_cleaning(tmp_path: Path) -> None:
    old = [{**line, "reason": line["reason"].replace("center", "centre")} for line in LINES]
    assert old[0]["reason"] == "far_from_centre"
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    saved = {"version": 1, "key": "of the old page", "decisions": {"a/0.jpg": {"decision": "drop", "to": None}}}
    (tmp_path / "review.json").write_text(json.dumps(saved))
    found = _apply(tmp_path / "old.jsonl", read_review(tmp_path / "review.json"))
    assert [line["reason"] for line in found] == ["reviewed"] + ["far_from_center"] * (len(LINES) - 1)
    assert found[1:] == LINES[1:] and found[0]["decision"] == "drop"


def test_pictures_and_identities_that_are_not_there_are_refused(decisions: Path) -> None:
    with pytest.raises(DataError, match=r"review\.json: no picture 'a/9\.jpg'; expected pictures of this set"):
        _apply(decisions, {"a/9.jpg": Verdict("keep", None)})
    with pytest.raises(DataError, match=r"review\.json: no identity 'd' to move to; expected one of this set"):
        _apply(decisions, {"a/0.jpg": Verdict("move", "d")})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read .*; expected a review; save it from the review page"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "holds no decisions; expected what the review page saves"),
        ('{"version": 1, "decisions": []}', "holds no decisions"),
        ('{"version": 2, "decisions": {}}', "version 2; expected 1"),
        ('{"version": 1, "decisions": {"a": "keep"}}', "'a': keep; expected a decision of keep, drop, move; fix"),
        ('{"version": 1, "decisions": {"a": {"decision": "burn"}}}', "expected a decision of keep, drop, move"),
        ('{"version": 1, "decisions": {"a": {"decision": "move"}}}', "'a': move to None; expected an identity"),
        ('{"version": 1, "decisions": {"a": {"decision": "keep", "to": "b"}}}', "'a': keep to 'b'; expected"),
    ],
)
def test_a_file_that_is_no_review_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "review.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_review(tmp_path / "review.json")


def test_a_review_is_read_as_the_page_saves_it(tmp_path: Path) -> None:
    decided = {"a/0.jpg": {"decision": "keep", "to": None}, "b/1.jpg": {"decision": "move", "to": "a"}}
    (tmp_path / "review.json").write_text(json.dumps({"version": 1, "decisions": decided}))
    expected = {"a/0.jpg": Verdict("keep", None), "b/1.jpg": Verdict("move", "a")}
    assert read_review(tmp_path / "review.json") == expected
