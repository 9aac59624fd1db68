"""What reaches the page: rows, tiles, likely identities, and scripts in which no name can do anything."""

from __future__ import annotations

import json
from pathlib import Path

from recognition.cleaning.borderline import survey
from recognition.cleaning.decision_file import Decision
from recognition.cleaning.review_page import own_identities, page_data, write_page
from recognition.images.sheets import TILES, Plan

HOSTILE = ["</script><script>x()</script>", "\u2028", "'\"`${x}", "new\nline", "名", "\udce9", "__proto__", "<!--"]


def found_in(folder: Path, rows: list[Decision]):
    path = folder / "decisions.jsonl"
    path.write_text("".join(json.dumps(vars(row)) + "\n" for row in rows))
    return survey(path, limit=100, min_doubt=0)


def kept(picture: str, identity: str, doubt: float, *beside: str) -> Decision:
    return Decision(picture, identity, "keep", None, "near_center", 0.4, doubt, "center", beside)


def moved(picture: str, identity: str, to: str, doubt: float, *beside: str) -> Decision:
    return Decision(picture, identity, "move", to, "elsewhere", None, doubt, "between", beside)


def names(plan: Plan, tiles: list[int]) -> list[str]:
    return [plan.sheets[tile // TILES][tile % TILES] for tile in tiles]


def test_rows_show_the_center_left_and_the_center_joined(tmp_path: Path) -> None:
    found = found_in(
        tmp_path,
        [
            kept("a/0", "a", 0.9, "a/1", "a/0", "a/2"),
            moved("a/1", "a", "b", 0.8, "b/0", "b/1"),
            moved("c/0", "c", "b", 0.7, "b/0"),
        ],
    )
    assert own_identities(found) == {"a", "c"}
    data, plan = page_data(found, {"a": ("a/1", "a/2")}, title="faces")
    first, second, third = data["rows"]
    assert first[:8] == ["a/0", "a", "keep", None, "near_center", 0.4, 0.9, "center"]
    assert [names(plan, [first[8]]), names(plan, first[9]), first[10]] == [["a/0"], ["a/1", "a/2"], []]
    assert [names(plan, second[9]), names(plan, second[10])] == [["a/2"], ["b/0", "b/1"]]
    assert [third[9], names(plan, third[10])] == [[], ["b/0"]]
    assert [first[11], second[11], third[11]] == [["b"], ["b"], ["b"]]
    assert (data["kinds"], data["num_identities"]) == ({"keep": 1, "move": 2}, 3)


def test_likely_identities_begin_with_the_suggested_and_then_the_often_linked(tmp_path: Path) -> None:
    rows = [moved(f"a/{k}", "a", to, 0.5) for k, to in enumerate("bbcccdef")]
    data, _ = page_data(found_in(tmp_path, rows), {}, title="")
    assert data["rows"][0][11] == ["b", "c", "d", "e"]
    assert data["rows"][-1][11] == ["f", "c", "b", "d"]


def test_the_key_is_of_the_rows_alone(tmp_path: Path) -> None:
    one, other = [kept("a/0", "a", 0.9)], [kept("a/0", "a", 0.8)]
    keys = [
        page_data(found_in(tmp_path, rows), {}, title=title)[0]["key"]
        for rows, title in (
            (one, "x"),
            (one, "y"),
            (other, "x"),
        )
    ]
    assert keys[0] == keys[1] != keys[2]


def test_scripts_are_plain_ascii_without_markup(tmp_path: Path) -> None:
    found = found_in(tmp_path, [kept(f"{k}/{name}", name, 0.5) for k, name in enumerate(HOSTILE)])
    data, _ = page_data(found, {}, title="<b>")
    write_page(tmp_path, data, found.identities)
    for name, variable, expected in (
        ("data.js", "REVIEW_DATA", data),
        ("identities.js", "REVIEW_IDENTITIES", sorted(HOSTILE)),
    ):
        text = (tmp_path / name).read_bytes().decode("ascii")
        assert "<" not in text
        head, _, body = text.partition(f"window.{variable} = ")
        assert head == '"use strict";\n'
        assert json.loads(body.removesuffix(";\n")) == expected
