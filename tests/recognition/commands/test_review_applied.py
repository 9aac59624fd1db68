"""From clean_faces.py through the page in a browser and back: the list changes exactly as clicked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recognition.commands.clean_faces import main as clean
from recognition.commands.review_faces import main as review
from recognition.images.codec import encode_jpeg
from tests.helpers.review_hands import card, click, drop, keep, move, press, save, type_identity

PEOPLE = ["Ada", "Bea's <b>", "Ďura", "Zoë"]
PICTURES = 8
FLAGS = ("--steps", "within,misplaced", "--within", "0.5", "--misplaced", "0.5", "--quiet")


@pytest.fixture
def cleaned(tmp_path: Path) -> Path:
    """Return a folder with faces/, embedded/ and clean/: every person has a stray, and a picture of the next one."""
    generator = np.random.default_rng(0)
    centers = np.eye(len(PEOPLE), 16)
    keys, vectors = [], []
    for label, name in enumerate(sorted(PEOPLE)):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(PICTURES):
            whose = (label + (number == 1)) % len(PEOPLE)
            center = np.eye(16)[8 + label] if number == 0 else centers[whose]
            vectors.append(center + generator.normal(0, 0.12, 16))
            keys.append([f"{name}/{number}.jpg", label])
            gray = np.full((112, 112, 3), 20 + 25 * whose + number, np.uint8)
            (tmp_path / "faces" / name / f"{number}.jpg").write_bytes(encode_jpeg(gray))
    (tmp_path / "embedded").mkdir()
    np.save(tmp_path / "embedded" / "embeddings.npy", np.array(vectors, np.float32))
    (tmp_path / "embedded" / "keys.jsonl").write_text("".join(json.dumps(key) + "\n" for key in keys))
    (tmp_path / "embedded" / "embeddings.json").write_text("{}")
    assert run_clean(tmp_path) == 0
    return tmp_path


def run_clean(folder: Path, *flags: str) -> int:
    places = (str(folder / "faces"), str(folder / "clean"), "--embeddings", str(folder / "embedded"))
    return clean([*places, *FLAGS, *flags])


def listed(folder: Path) -> dict[str, int]:
    """Return picture -> label of the list."""
    rows = [line.split("\t") for line in (folder / "clean" / "clean.lst").read_text(encoding="utf-8").splitlines()]
    assert [int(row[0]) for row in rows] == list(range(len(rows)))
    return {row[2]: int(float(row[1])) for row in rows}


def expected_list(decisions: dict[str, tuple[str, str, str | None]]) -> dict[str, int]:
    """Return picture -> label for picture -> (identity, decision, to), numbered by the names that are left."""
    owners = {name: to or identity for name, (identity, decision, to) in decisions.items() if decision != "drop"}
    numbers = {identity: number for number, identity in enumerate(sorted(set(owners.values())))}
    return {picture: numbers[identity] for picture, identity in owners.items()}


@pytest.mark.slow
def test_the_list_changes_exactly_as_clicked(cleaned: Path, open_page: Callable, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (cleaned / "clean" / "decisions.jsonl").read_text().splitlines()]
    decisions = {line["picture"]: (line["identity"], line["decision"], line["to"]) for line in lines}
    assert {kind for _, kind, _ in decisions.values()} == {"keep", "drop", "move"}
    assert listed(cleaned) == expected_list(decisions)

    assert review([*(str(cleaned / name) for name in ("faces", "clean", "page")), "--min-doubt", "0", "--quiet"]) == 0
    page = open_page(cleaned / "page")
    places = {card_text: position for position, card_text in enumerate(shown(page), 1)}
    of_kind = {kind: [p for p in places if decisions[p][1] == kind] for kind in ("keep", "drop", "move")}

    clicked = {
        of_kind["drop"][0]: keep(),
        of_kind["move"][0]: keep(),
        of_kind["move"][1]: drop(),
        of_kind["keep"][0]: drop(),
        of_kind["drop"][1]: move("Zoë"),
        of_kind["keep"][1]: keep(),
    }
    for picture, verdict in clicked.items():
        show(page, places[picture])
        click(page, places[picture], verdict["decision"])
        if verdict["to"]:
            type_identity(page, "zoe")
            press(page, "Enter")
    show(page, places[of_kind["keep"][2]])
    press(page, "d", "u")  # and once not: what was taken back is no decision
    assert save(page, tmp_path)["decisions"] == clicked

    before = (cleaned / "clean" / "decisions.jsonl").read_text().splitlines()
    assert run_clean(cleaned, "--review", str(tmp_path / "decisions.json")) == 0
    for picture, verdict in clicked.items():
        decisions[picture] = (decisions[picture][0], verdict["decision"], verdict["to"])
    assert listed(cleaned) == expected_list(decisions)
    after = (cleaned / "clean" / "decisions.jsonl").read_text().splitlines()
    assert {json.loads(new)["picture"] for old, new in zip(before, after, strict=True) if old != new} == set(clicked)


def shown(page) -> list[str]:
    """Return the pictures in the order of the page."""
    return page.evaluate("window.REVIEW_DATA.rows.map((row) => row[0])")


def show(page, position: int) -> None:
    """Bring a card to the window by the keys."""
    press(page, "Home", *["ArrowRight"] * (position - 1))
    assert card(page, position).is_visible()
