"""The review page on twins, original photos, expected errors, undoubted drops and new people; applied as clicked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recognition.cleaning.review import name_problem
from recognition.commands.align_faces import main as align
from recognition.commands.clean_faces import main as clean
from recognition.commands.review_faces import main as review
from recognition.detection.alignment import ARCFACE_TEMPLATE
from recognition.images.codec import decode_rgb, encode_jpeg
from tests.helpers.review_hands import card, click, drop, eventually, keep, message, move, press, save

pytestmark = pytest.mark.slow

PEOPLE, PICTURES = ["Ada", "Bea", "Cyd", "Dan"], 8
FLAGS = ("--within", "0.5", "--far", "0.5", "--misplaced", "0.5", "--duplicates", "0.995", "--merge", "0.9", "--quiet")
RED, BLUE = (250, 10, 10), (10, 10, 250)


def photo() -> np.ndarray:
    """Return a photo of two faces: the left one is red, the right one blue."""
    rgb = np.zeros((120, 260, 3), np.uint8)
    rgb[:, :130], rgb[:, 130:] = RED, BLUE
    return rgb


def face(left: float, crop: str | None) -> dict[str, Any]:
    landmarks = (ARCFACE_TEMPLATE * 0.5 + [left + 40, 30]).round(2).tolist()
    entry = {"box": [left + 30, 20, left + 100, 110], "landmarks": landmarks, "score": 0.99}
    return entry if crop is None else {**entry, "crop": crop}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with photos/, faces/ as aligned from them, embedded/, clean/ and page/.

    Of each person picture 0 is a stranger, 2 is nearly picture 3, and picture 1 of Ada is Bea's.
    """
    generator = np.random.default_rng(0)
    encoded, records, keys, vectors = encode_jpeg(photo()), [], [], []
    for label, name in enumerate(PEOPLE):
        for number in range(PICTURES):
            picture = f"{name}/{number}.jpg"
            for folder in ("photos", "faces"):
                (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / picture).write_bytes(encoded)
            pixels = np.full((112, 112, 3), RED, np.uint8)
            pixels[:8] = 20 * label + number
            (tmp_path / "faces" / picture).write_bytes(encode_jpeg(pixels))
            found = {"status": "ok", "crc32": zlib.crc32(encoded), "width": 260, "height": 120}
            records.append({"photo": picture, **found, "faces": [face(0, picture), face(130, None)]})
            center = np.eye(16)[8 + label] if number == 0 else np.eye(16)[(label + (name == "Ada" and number == 1)) % 4]
            vector = vectors[-1] + generator.normal(0, 0.002, 16) if number == 3 else None
            vectors.append(center + generator.normal(0, 0.12, 16) if vector is None else vector)
            keys.append([picture, label])
    (tmp_path / "faces/align.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "faces/align.json").write_text(json.dumps({"size": 112, "quality": 95}))
    (tmp_path / "embedded").mkdir()
    np.save(tmp_path / "embedded/embeddings.npy", np.array(vectors, np.float32))
    (tmp_path / "embedded/keys.jsonl").write_text("".join(json.dumps(key) + "\n" for key in keys))
    (tmp_path / "embedded/embeddings.json").write_text("{}")
    assert run_clean(tmp_path) == 0
    return tmp_path


def run_clean(root: Path, *flags: str) -> int:
    places = (str(root / "faces"), str(root / "clean"), "--embeddings", str(root / "embedded"))
    return clean([*places, *FLAGS, *flags])


def run_review(root: Path, *flags: str) -> int:
    return review([*(str(root / name) for name in ("faces", "clean", "page")), "--overwrite", "--quiet", *flags])


def listed(root: Path) -> dict[str, str]:
    """Return picture -> person of the list."""
    names = (root / "clean/clean.names").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in (root / "clean/clean.lst").read_text(encoding="utf-8").splitlines()]
    return {picture: names[int(label)] for _, label, picture in rows}


def place_of(page: Any, picture: str) -> int:
    """Bring the card of a picture to the window and return its position."""
    position: int = page.evaluate("window.REVIEW_DATA.rows.map((row) => row[0])").index(picture) + 1
    press(page, "Home", *["ArrowRight"] * (position - 1))
    return position


def decided(root: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (root / "clean/decisions.jsonl").read_text().splitlines()]
    return {line["picture"]: line for line in lines}


def test_a_near_duplicate_shows_its_twin_and_can_take_its_place(
    root: Path, open_page: Callable, tmp_path: Path
) -> None:
    twins = {name: line["twin"] for name, line in decided(root).items() if line.get("twin")}
    assert len(twins) == 4 and all({a[-5], b[-5]} == {"2", "3"} for a, b in twins.items())
    assert run_review(root, "--min-doubt", "0") == 0
    page = open_page(root / "page")
    dropped, stays = sorted(twins.items())[0]
    position = place_of(page, dropped)
    shown = card(page, position)
    assert shown.locator(".target .name").text_content() == stays
    assert shown.locator(".target small").text_content() == "its twin, face 70 px of 260 × 120:"
    assert shown.locator(".own-size").text_content() == "face 70 px of 260 × 120"
    assert shown.locator(".target .thumb").first.get_attribute("data-tile") is not None
    shown.locator("button[data-do=swap]").click()
    assert (shown.get_attribute("data-decision"), message(page)[:4]) == ("keep", "Kept")
    other = place_of(page, sorted(twins)[1])
    press(page, "w", "u")  # the keyboard's way, and taken back
    assert card(page, other).get_attribute("data-decision") == "drop"
    assert save(page, tmp_path)["decisions"] == {dropped: keep(), stays: drop()}
    before = listed(root)
    assert run_clean(root, "--review", str(tmp_path / "decisions.json")) == 0
    assert listed(root) == {dropped if name == stays else name: person for name, person in before.items()}


def test_sizes_are_those_of_the_files_where_nothing_is_known_of_photos(root: Path, open_page: Callable) -> None:
    (root / "faces/align.jsonl").unlink()
    assert run_review(root, "--min-doubt", "0") == 0
    page = open_page(root / "page")
    dropped = next(name for name, line in decided(root).items() if line.get("twin"))
    shown = card(page, place_of(page, dropped))
    assert shown.locator(".own-size").text_content().startswith("112 × 112 px, ")
    assert not shown.locator("button[data-do=photo]").is_visible()
    assert run_review(root, "--photos", str(root / "photos")) == 1


def test_another_face_of_the_photo_is_chosen_and_cut(
    root: Path, open_page: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_review(root, "--photos", str(root / "photos"), "--min-doubt", "0") == 0
    page = open_page(root / "page")
    position = place_of(page, "Ada/0.jpg")
    card(page, position).locator("button[data-do=photo]").click()
    image = page.locator("#original")
    eventually(lambda: image.evaluate("image => image.complete && image.naturalWidth") == 260)
    faces = page.locator("#faces button")
    assert [faces.nth(i).get_attribute("aria-pressed") for i in range(faces.count())] == ["true", "false"]
    faces.nth(1).click()
    assert card(page, position).get_attribute("data-decision") == "keep"
    assert card(page, position).locator(".verdict").text_content() == "changed, was drop, face 2 of the photo"
    place_of(page, "Bea/0.jpg")
    press(page, "o")
    faces.nth(1).click()
    press(page, "d")  # a picture that is dropped shows no other face
    place_of(page, "Cyd/0.jpg")
    press(page, "o", "Escape")
    place_of(page, "Dan/0.jpg")
    press(page, "o")
    faces.nth(1).click()
    expected = {"Ada/0.jpg": {**keep(), "face": 1}, "Bea/0.jpg": drop(), "Dan/0.jpg": {**keep(), "face": 1}}
    assert save(page, tmp_path)["decisions"] == expected
    page.reload()
    assert "face 2 of the photo" in card(page, place_of(page, "Dan/0.jpg")).locator(".verdict").text_content()

    decisions = str(tmp_path / "decisions.json")
    before = {name: (root / "faces" / name).read_bytes() for name in expected}
    assert run_clean(root, "--review", decisions) == 1
    assert "is to show face 1 of its photo, and does not" in capsys.readouterr().err
    (root / "photos/Dan/0.jpg").unlink()
    choose = [str(root / "photos"), str(root / "faces"), "--choices", decisions, "--quiet"]
    assert align(choose) == 0
    told = capsys.readouterr().out
    assert told.startswith("cut 1 crop again, 0 as before, 1 left as they were") and "Dan/0.jpg" in told.splitlines()[1]
    assert (root / "faces/Dan/0.jpg").read_bytes() == before["Dan/0.jpg"]
    cut = decode_rgb((root / "faces/Ada/0.jpg").read_bytes(), place="")
    assert np.abs(cut[56, 56].astype(int) - BLUE).max() < 12
    assert run_clean(root, "--review", decisions) == 1, "Dan's photo is lost, and the decision about it cannot hold"
    (root / "photos/Dan/0.jpg").write_bytes(encode_jpeg(photo()))
    assert align(choose) == 0 and "cut 1 crop again, 1 as before, 0 left" in capsys.readouterr().out
    assert run_clean(root, "--review", decisions) == 0
    assert {"Ada/0.jpg", "Dan/0.jpg"} <= listed(root).keys() and "Bea/0.jpg" not in listed(root)


def test_wrong_choices_change_nothing(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (root / "faces/align.jsonl").read_bytes()
    for picture, number, said in (
        ("Ada/9.jpg", 1, "no crop 'Ada/9.jpg'; expected crops of"),
        ("Ada/1.jpg", 2, "face 2 of 2 in its photo; expected one of these"),
    ):
        decisions = {picture: {**keep(), "face": number}}
        (tmp_path / "wrong.json").write_text(json.dumps({"version": 1, "decisions": decisions}))
        assert align([str(root / "photos"), str(root / "faces"), "--choices", str(tmp_path / "wrong.json")]) == 1
        assert said in capsys.readouterr().err
    assert (root / "faces/align.jsonl").read_bytes() == before and not (root / "faces/.align").exists()


def test_a_photo_that_has_vanished_is_counted(
    root: Path, open_page: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "photos/Ada/0.jpg").unlink()
    (root / "photos/Bea/0.jpg").write_bytes(b"no photo")
    assert run_review(root, "--photos", str(root / "photos"), "--min-doubt", "0") == 0
    assert "photos that have vanished or are none: 2, such as: " in capsys.readouterr().out
    page = open_page(root / "page")
    assert not card(page, place_of(page, "Ada/0.jpg")).locator("button[data-do=photo]").is_visible()
    press(page, "o")
    assert message(page) == "The original photo of this picture is not on this page."
    (root / "faces/Ada/1.jpg").unlink()
    assert run_review(root, "--min-doubt", "0") == 1
    assert "Ada/1.jpg" in capsys.readouterr().err


def test_the_errors_to_expect_fall_as_decisions_are_reviewed(
    root: Path, open_page: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_review(root, "--min-doubt", "0", "--json") == 0
    told = json.loads(capsys.readouterr().out)["expected_errors_after"]
    risks = {name: line.get("risk", 0) for name, line in decided(root).items()}
    assert told["0"] == pytest.approx(sum(risks.values()), abs=0.01) and told["0"] > told[str(len(risks))] >= 0
    page = open_page(root / "page")
    assert page.locator("#expected").text_content() == f"about {told['0']:.1f} errors expected in the rest"
    first = page.evaluate("window.REVIEW_DATA.rows.map((row) => row[0])")[:2]
    press(page, "k", "d")
    left = max(0, sum(risks.values()) - sum(risks[name] for name in first))
    assert page.locator("#expected").text_content() == f"about {left:.1f} errors expected in the rest"


def test_what_was_dropped_without_doubt_is_listed_after_the_others(
    root: Path, open_page: Callable, tmp_path: Path
) -> None:
    lines = decided(root)
    least = max(line["doubt"] for line in lines.values())
    sure = [name for name, line in lines.items() if line["decision"] == "drop" and line["doubt"] < least]
    assert len(sure) > 3
    assert run_review(root, "--min-doubt", str(least), "--dropped", str(len(sure) - 1)) == 0
    listed_names = [line.split("\t")[0] for line in (root / "page/dropped.tsv").read_text().splitlines()[1:]]
    assert listed_names == sure
    page = open_page(root / "page")
    note = f"{len(sure)} more dropped without doubt, {len(sure) - 1} of them here"
    assert page.locator("#dropped").text_content() == note
    page.select_option("#state", "undoubted")
    assert page.locator("#position").text_content() == f"1 / {len(sure) - 1}"
    assert card(page, 1).locator(".picture").text_content() == sure[0]
    click(page, 1, "keep")
    assert page.locator("#count").text_content().startswith("0 of "), "they are not among those to review"
    assert save(page, tmp_path)["decisions"] == {sure[0]: keep()}
    assert run_clean(root, "--review", str(tmp_path / "decisions.json")) == 0
    assert sure[0] in listed(root)


def test_a_picture_becomes_a_new_person(
    root: Path, open_page: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_review(root, "--min-doubt", "0") == 0
    page = open_page(root / "page")
    position = place_of(page, "Ada/0.jpg")
    press(page, "m")
    page.keyboard.type("Eve Žž")
    page.locator("#choices li").first.wait_for()
    assert page.locator("#choices li small").all_text_contents() == ["new person"]
    press(page, "Enter")
    assert page.locator("#move").get_attribute("open") is not None, "no slip of the keys makes a person"
    press(page, "ArrowDown", "Enter")
    assert card(page, position).locator(".target .name").text_content() == "Eve Žž"
    assert card(page, position).locator(".target small").text_content() == "new person"
    place_of(page, "Bea/0.jpg")
    press(page, "m")
    page.keyboard.type("eve")
    page.locator("#choices li").first.wait_for()
    assert page.locator("#choices bdi").all_text_contents() == ["Eve Žž", "eve"]
    press(page, "Enter")
    place_of(page, "Cyd/0.jpg")
    press(page, "m")
    page.keyboard.type(".x/y")
    eventually(lambda: page.locator("#matches").text_content() == "No identity has this in its name")
    assert page.locator("#choices li").count() == 0
    press(page, "Escape")
    new = {**move("Eve Žž"), "new": True}
    assert save(page, tmp_path)["decisions"] == {"Ada/0.jpg": new, "Bea/0.jpg": new}
    for _ in range(2):
        assert run_clean(root, "--review", str(tmp_path / "decisions.json")) == 0
        assert [name for name, person in listed(root).items() if person == "Eve Žž"] == ["Ada/0.jpg", "Bea/0.jpg"]

    (tmp_path / "another.json").write_text(json.dumps({"version": 1, "decisions": {"Fay/0.jpg": new}}))
    assert run_clean(root, "--review", str(tmp_path / "another.json")) == 1
    assert "no picture 'Fay/0.jpg'; expected pictures of this set" in capsys.readouterr().err


def test_page_and_command_agree_which_names_are_possible(root: Path, open_page: Callable, tmp_path: Path) -> None:
    assert run_review(root, "--min-doubt", "0") == 0
    page = open_page(root / "page")
    names = ["", " a", "a ", ".a", "a/b", "a\n", "a\x7f", "é" * 120, "é" * 121, "ok", "a..b", "a'<b>", "\ud800"]
    for name in names:
        refused = page.evaluate(f"Review.nameProblem(JSON.parse({json.dumps(json.dumps(name))})) !== null")
        assert refused == (name_problem(name) is not None), repr(name)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"decision": "keep", "to": None, "new": True}, "new is True; expected true for a move alone"),
        ({"decision": "move", "to": "a/b", "new": True}, "the new identity 'a/b' has a slash"),
        ({"decision": "drop", "to": None, "face": 1}, "face is 1; expected the number of a face"),
        ({"decision": "keep", "to": None, "face": -1}, "face is -1; expected the number of a face"),
        ({"decision": "keep", "to": None, "face": True}, "face is True; expected the number of a face"),
    ],
)
def test_entries_that_say_the_impossible_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict[str, Any], said: str
) -> None:
    (tmp_path / "wrong.json").write_text(json.dumps({"version": 1, "decisions": {"Ada/0.jpg": entry}}))
    assert run_clean(root, "--review", str(tmp_path / "wrong.json")) == 1
    assert said in capsys.readouterr().err
