"""Scores of a file: written and read again, other systems' forms, groups, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recognition.commands.verify import main
from recognition.errors import DataError
from recognition.formats.pairs_about import PairsAbout
from recognition.verification.groups import ACROSS, group_table, read_groups
from recognition.verification.intervals import PairPeople
from recognition.verification.protocols import PairSet, verify_scores
from recognition.verification.scores_file import read_scores, write_scores

NUM = 4000


@pytest.fixture(scope="module")
def judged() -> tuple[PairSet, np.ndarray]:
    """4,000 pairs of 200 people in two groups, one of which is much harder; the last thousand are across groups."""
    rng = np.random.default_rng(0)
    is_same = np.arange(NUM) % 2 == 0
    first = rng.integers(0, 100, NUM) + np.where(np.arange(NUM) % 4 < 2, 0, 100)
    second = np.where(is_same, first, (first + 1 + rng.integers(0, 99, NUM)) % 100 + first // 100 * 100)
    second[3001::2] = (first[3001::2] + 100) % 200
    people = [f"p{who:03d}" for both in zip(first, second) for who in both]
    groups = ["easy" if who < "p100" else "hard" for who in people]
    scores = np.where(is_same, 0.6, 0.0) + rng.normal(0, 0.15, NUM) + np.where(~is_same & (first >= 100), 0.2, 0.0)
    about = PairsAbout(people=tuple(people), groups=tuple(groups), fold_sizes=(400,) * 10)
    return PairSet("made", Path("made.tsv"), "0" * 64, [], is_same, about), scores


def test_what_is_written_is_read_again_to_the_last_digit(tmp_path: Path, judged: tuple[PairSet, np.ndarray]) -> None:
    pair_set, scores = judged
    write_scores(tmp_path / "made.tsv", pair_set, scores)
    again, found = read_scores(tmp_path / "made.tsv")
    assert found.tolist() == scores.tolist()
    assert again.is_same.tolist() == pair_set.is_same.tolist()
    assert again.about == pair_set.about
    mine, theirs = (
        verify_scores(each, values, method="model", with_intervals=True)
        for each, values in ((pair_set, scores), (again, found))
    )
    assert (mine.accuracy, mine.auc, mine.intervals) == (theirs.accuracy, theirs.auc, theirs.intervals)
    assert "tar@far1e-3" not in mine.intervals and "accuracy" in mine.intervals


def test_another_systems_scores_need_two_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{i / 40} {int(i % 3 == 0)}" for i in range(40)]
    (tmp_path / "other.txt").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    assert main(["--from-scores", str(tmp_path / "other.txt"), "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    (entry,) = report["results"]
    assert (entry["num_pairs"], entry["num_people"], entry["intervals"], report["model"]) == (40, None, {}, None)


def test_errors_by_group_are_counted_at_one_threshold(judged: tuple[PairSet, np.ndarray]) -> None:
    pair_set, scores = judged
    result = verify_scores(pair_set, scores, method="model")
    table = group_table(result, pair_set.about)
    assert table is not None
    assert table.threshold == result.tar_at_far[0].threshold and "FAR 0.001" in table.chosen_by
    first, second = np.array(pair_set.about.groups[0::2]), np.array(pair_set.about.groups[1::2])
    assert [row.group for row in table.rows] == ["easy", "hard", ACROSS]
    for row in table.rows:
        member = first != second if row.group == ACROSS else (first == row.group) & (second == row.group)
        same, different = scores[member & pair_set.is_same], scores[member & ~pair_set.is_same]
        assert (row.num_same, row.num_different) == (len(same), len(different))
        assert row.fnmr == (np.mean(same < table.threshold) if len(same) else None)
        assert row.fmr == np.mean(different >= table.threshold)
        if row.fnmr_interval is not None:
            assert row.fnmr_interval.low <= row.fnmr <= row.fnmr_interval.high
    assert table.rows[0].fnmr_interval is not None and table.rows[0].fmr_interval is None, "too few accepted"
    assert group_table(result, PairsAbout()) is None


def test_groups_of_people_come_from_a_file(
    tmp_path: Path, judged: tuple[PairSet, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    pair_set, scores = judged
    write_scores(tmp_path / "made.tsv", pair_set, scores)
    names = sorted(set(pair_set.about.people))
    (tmp_path / "groups.tsv").write_text(
        "".join(f"{name}\t{'odd' if int(name[1:]) % 2 else 'even'}\n" for name in names)
    )
    command = ["--from-scores", str(tmp_path / "made.tsv"), "--groups", str(tmp_path / "groups.tsv"), "--quiet"]
    assert main([*command, "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)["results"][0]
    assert [row["group"] for row in entry["groups"]] == ["even", "odd", ACROSS]
    assert main(command) == 0
    assert "made at 0." in capsys.readouterr().out
    (tmp_path / "groups.tsv").write_text("p000\teven\n")
    assert main(command) == 1
    assert "groups.tsv: no group of 'p" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5 1\n0.4 zero\n", "scores:2: found 'zero'; expected 1 for one person or 0 for two"),
        ("0.5 1\nhello 0\n", "scores:2: found 'hello'; expected a finite number as the score"),
        ("0.5 1\nnan 0\n", "scores:2: found 'nan'; expected a finite number"),
        ("score same person1\n0.5 1\n", "scores:2: found '0.5 1'; expected 3 fields: score same person1"),
        ("similarity same\n0.5 1\n", "scores:1: found 'similarity same'; expected a header with score and same"),
        ("score\tsame\tfold\n0.5\t1\tone\n0.1\t0\t1\n", "scores:2: found 'one'; expected the number of a fold"),
        ("", "scores: is empty; expected lines `score TAB same`"),
        ("0.5 1\n" * 20, "scores: 20 of 20 pairs show the same person"),
        ("0.5 1\n0.2 0\n", "scores: 2 pairs; expected at least one per fold"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scores").write_text(text)
    assert main(["--from-scores", str(tmp_path / "scores"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_groups_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    for text, line in (("a\tx\na\ty\n", 2), ("a\n", 1), ("a\tx\tz\n", 1)):
        (tmp_path / "g").write_text(text)
        with pytest.raises(DataError, match=f"g:{line}: found "):
            read_groups(tmp_path / "g")
    (tmp_path / "g").write_text("a b,x\nc\ty z\n")
    assert read_groups(tmp_path / "g") == {"a b": "x", "c": "y z"}


def test_people_are_numbered_by_name() -> None:
    people = PairPeople.of(["b", "b", "a", "c"])
    assert (people.first.tolist(), people.second.tolist(), people.num) == ([1, 0], [1, 2], 3)
