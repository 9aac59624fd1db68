"""review_faces.py: what it prints and writes, and input that is wrong. The page itself: test_review_browser.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recognition.commands.review_faces import main
from recognition.images.codec import encode_jpeg


@pytest.fixture
def cleaned(tmp_path: Path) -> Path:
    """Return a folder with faces/ and clean/decisions.jsonl: 12 pictures of 3 identities."""
    lines = []
    for number in range(12):
        identity, picture = "abc"[number % 3], f"{'abc'[number % 3]}/{number}.jpg"
        path = tmp_path / "faces" / picture
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(np.full((20, 20, 3), 20 * number, np.uint8)))
        lines.append(
            {
                "picture": picture,
                "identity": identity,
                "decision": ("keep", "drop", "move")[number % 3],
                "to": "a" if number % 3 == 2 else None,
                "reason": "far",
                "score": None,
                "doubt": number / 12,
                "step": "center",
                "beside": [picture],
            }
        )
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def run(folder: Path, *flags: str) -> int:
    return main([*(str(folder / name) for name in ("faces", "clean", "page")), "--quiet", *flags])


def test_the_counts_are_printed_and_the_folder_is_whole(cleaned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cleaned, "--limit", "7") == 0
    assert "page/index.html: 7 of 12 pictures (2 keep, 2 drop, 3 move), doubt 0.917 to 0.417, 1 sheet in" in (
        capsys.readouterr().out
    )
    assert run(cleaned, "--min-doubt", "0.5", "--json", "--overwrite") == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts.pop("page").endswith("page/index.html")
    assert counts.pop("seconds") >= 0
    assert counts == {
        "num_rows": 6,
        "num_pictures": 12,
        "num_keep": 2,
        "num_drop": 2,
        "num_move": 2,
        "num_sheets": 1,
        "num_tiles": 8,
        "num_dropped": 2,
        "num_photos_lost": 0,
        "expected_errors_after": None,
    }
    listed = (cleaned / "page" / "dropped.tsv").read_text().splitlines()
    assert listed == ["picture\tidentity\treason\tscore", "b/1.jpg\tb\tfar\t", "b/4.jpg\tb\tfar\t"]
    names = {path.name for path in (cleaned / "page").iterdir()}
    assert names >= {"index.html", "review.css", "data.js", "identities.js", "sheets"}
    assert [path.name for path in (cleaned / "page" / "sheets").iterdir()] == ["0.jpg"]


def test_any_number_of_workers_writes_the_same(cleaned: Path) -> None:
    assert run(cleaned, "--workers", "1") == 0
    (cleaned / "page").rename(cleaned / "one")
    assert run(cleaned, "--workers", "3") == 0
    for path in (cleaned / "one").rglob("*.*"):
        assert path.read_bytes() == (cleaned / "page" / path.relative_to(cleaned / "one")).read_bytes()


def fails(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    before = sorted(folder.rglob("*"))
    assert run(folder, *flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("review_faces: error: ") and error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before, "nothing is left half-written"
    return error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--limit", "50001"), "--limit, --dropped: 50,001 pictures; expected at most 50,000"),
        (("--min-doubt", "1.5"), "--min-doubt: 1.5; expected 0 to 1"),
        (("--min-doubt", "nan"), "--min-doubt: nan; expected 0 to 1"),
        (("--min-doubt", "0.99"), "none of its 12 decisions has a doubt of at least 0.99"),
    ],
)
def test_flags_that_cannot_be(
    cleaned: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert message in fails(cleaned, capsys, *flags)


def test_folders_that_are_not_there(cleaned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cleaned / "faces" / "b" / "7.jpg").unlink()
    assert "b/7.jpg: cannot be read" in fails(cleaned, capsys)
    (cleaned / "clean" / "decisions.jsonl").unlink()
    assert "decisions.jsonl: cannot be read" in fails(cleaned, capsys)
    (cleaned / "faces").rename(cleaned / "other")
    assert "faces: is not a folder; expected the faces that were cleaned" in fails(cleaned, capsys)


def test_only_an_earlier_page_is_replaced(cleaned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cleaned) == 0
    capsys.readouterr()
    assert "page: exists already; expected a new path" in fails(cleaned, capsys)
    (cleaned / "page" / "data.js").unlink()
    assert "page: is no review page; expected one to replace" in fails(cleaned, capsys, "--overwrite")
    faces, clean = str(cleaned / "faces"), str(cleaned / "clean")
    assert main([faces, clean, faces, "--overwrite"]) == 1
    assert len(list((cleaned / "faces").rglob("*.jpg"))) == 12
