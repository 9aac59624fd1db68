"""Reading the decisions of clean_faces.py: which are shown, in which order, and lines that are wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition.cleaning.borderline import center_faces, survey
from recognition.cleaning.decision_file import Decision, parse_decision, read_decisions, render_decision
from recognition.errors import DataError


def line(picture: str, **changes: Any) -> dict[str, Any]:
    return {
        "picture": picture,
        "identity": picture.split("/")[0],
        "decision": "keep",
        "to": None,
        "reason": "near_center",
        "score": 0.4,
        "doubt": 0.5,
        "step": "center",
        "beside": [],
        **changes,
    }


def write(folder: Path, lines: list[Any]) -> Path:
    path = folder / "decisions.jsonl"
    path.write_text("".join(f"{text if isinstance(text, str) else json.dumps(text)}\n" for text in lines))
    return path


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=30),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.3, 0.5]),
)
def test_the_most_doubtful_come_first_and_ties_by_name(
    tmp_path_factory: pytest.TempPathFactory, doubts: list[float], limit: int, least: float
) -> None:
    names = [f"{number * 7 % 31:02}/x.jpg" for number in range(len(doubts))]
    path = write(tmp_path_factory.mktemp("d"), [line(name, doubt=d) for name, d in zip(names, doubts)])
    expected = sorted((-doubt, name) for name, doubt in zip(names, doubts) if doubt >= least)[:limit]
    if not expected:
        with pytest.raises(DataError, match=f"none of its {len(doubts)} decisions has a doubt of at least"):
            survey(path, limit=limit, min_doubt=least)
        return
    found = survey(path, limit=limit, min_doubt=least)
    assert [(-row.doubt, row.picture) for row in found.rows] == expected
    assert found.kinds.total() == len(doubts)
    assert found.identities == {name.split("/")[0] for name in names}


def test_moves_link_identities_both_ways(tmp_path: Path) -> None:
    lines = [line(f"a/{k}.jpg", decision="move", to="b", doubt=0.0) for k in range(2)]
    path = write(tmp_path, [*lines, line("a/9.jpg", decision="move", to="c"), line("d/0.jpg")])
    found = survey(path, limit=2, min_doubt=0)
    assert found.links == {"a": {"b": 2, "c": 1}, "b": {"a": 2}, "c": {"a": 1}}
    assert found.identities == set("abcd")
    assert len(found.rows) == 2


def test_the_faces_beside_belong_to_the_identity_or_to_where_the_picture_moves(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        [
            line("a/0.jpg", beside=["a/1.jpg"]),
            line("a/1.jpg", beside=["a/2.jpg", "a/3.jpg"]),
            line("a/2.jpg", decision="move", to="b", beside=["b/1.jpg"]),
            line("c/0.jpg", beside=["c/1.jpg"]),
        ],
    )
    assert center_faces(path, {"a", "b", "nobody"}) == {"a": ("a/2.jpg", "a/3.jpg"), "b": ("b/1.jpg",)}


def test_names_that_are_not_utf8_are_read_as_python_names_them(tmp_path: Path) -> None:
    name = b"caf\xe9/1.jpg".decode("utf-8", "surrogateescape")
    path = write(tmp_path, [line(name)])
    assert list(read_decisions(path)) == [
        Decision(name, name.split("/")[0], "keep", None, "near_center", 0.4, 0.5, "center", ())
    ]


def test_a_line_is_read_back_as_it_was_written_and_a_wrong_one_is_not_written() -> None:
    decision = Decision("a/0.jpg", "a", "move", "b", "merged", None, 0.25, "merge", ("b/1.jpg",))
    text = render_decision(decision)
    assert list(json.loads(text)) == list(line("a"))
    assert parse_decision("here", text) == decision
    for wrong in ({"to": None}, {"doubt": 2.0}, {"beside": ("../x",)}, {"score": "0.5"}, {"score": math.nan}):
        with pytest.raises(DataError, match=r"picture 'a/0\.jpg': .*; expected"):
            render_decision(replace(decision, **wrong))


def test_the_words_of_older_versions_are_read_as_those_of_today(tmp_path: Path) -> None:
    path = write(tmp_path, [line("a/0.jpg", reason="far_from_centre", step="far"), line("b/0.jpg", step="centre")])
    assert [(decision.reason, decision.step) for decision in read_decisions(path)] == [
        ("far_from_center", "far"),
        ("near_center", "center"),
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", r"decisions\.jsonl:2: is not JSON"),
        ("[" * 100_000, r"decisions\.jsonl:2: is not JSON"),
        ("[]", r"decisions\.jsonl:2: '\[\]'; expected an object with picture, identity, decision"),
        ({"picture": "a/1.jpg"}, "expected an object with picture"),
        (line("a/1.jpg", doubt=None), "doubt is None; expected a number"),
        (line("a/1.jpg", doubt=True), "doubt is True; expected a number"),
        (line("a/1.jpg", score="high"), "score is 'high'; expected a number or null"),
        (line("a/1.jpg", to=3), "to is 3; expected text or null"),
        (line("a/1.jpg", decision="burn"), "decision is 'burn'; expected keep, drop, move"),
        (line("a/1.jpg", decision="move"), "decision is move and to is None; expected an identity"),
        (line("a/1.jpg", to="b"), "decision is keep and to is 'b'"),
        (line("a/1.jpg", doubt=1.5), "doubt is 1.5; expected 0 to 1"),
        (line("a/1.jpg", doubt=float("nan")), "is not JSON .NaN is no number.; expected one object per line"),
        (line("a/1.jpg", score=float("inf")), "is not JSON .Infinity is no number.; expected one object per line"),
        (line("a/1.jpg", beside=["a"] * 4), "beside is not a list of at most 3 pictures"),
        (line("a/1.jpg", beside=[1]), "beside is not a list of at most 3 pictures"),
        (line("a/../../etc/passwd"), "leaves the folder of faces; expected a path below it"),
        (line("/etc/passwd"), "leaves the folder of faces"),
        (line("a/1.jpg", beside=["../b.jpg"]), r"'\.\./b\.jpg' leaves the folder of faces"),
        (line("a/\0.jpg"), "leaves the folder of faces"),
        (line("a/0.jpg"), "decides about 'a/0.jpg' twice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, bad: Any, message: str) -> None:
    path = write(tmp_path, [line("a/0.jpg"), bad])
    with pytest.raises(DataError, match=message):
        survey(path, limit=10, min_doubt=0)


def test_a_file_that_is_missing_empty_or_binary(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .* expected the decisions of clean_faces.py"):
        survey(tmp_path / "decisions.jsonl", limit=1, min_doubt=0)
    path = write(tmp_path, [])
    with pytest.raises(DataError, match=r"none of its 0 decisions .*; let clean_faces.py write it again"):
        survey(path, limit=1, min_doubt=0)
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match="cannot be read"):
        survey(path, limit=1, min_doubt=0)
