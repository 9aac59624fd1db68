"""Pairs are balanced, distinct, and nobody occurs in two folds."""

from __future__ import annotations

from pathlib import Path

import pytest

from recognition.commands.make_pairs import draw_pairs, main
from recognition.errors import DataError

PEOPLE = {f"p{i:02d}": [f"p{i:02d}/{k}.jpg" for k in range(4)] for i in range(12)}


def test_every_fold_is_balanced_and_keeps_its_people_to_itself() -> None:
    pairs = draw_pairs(PEOPLE, num_pairs=60, num_folds=3, seed=1)
    assert len(set(pairs)) == 60
    seen: list[set[str]] = []
    for fold in range(3):
        block = pairs[fold * 20 : (fold + 1) * 20]
        assert sum(same for _, _, same in block) == 10
        for first, second, same in block:
            assert (first.split("/")[0] == second.split("/")[0]) == same
            assert first != second
        seen.append({path.split("/")[0] for pair in block for path in pair[:2]})
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_the_seed_decides() -> None:
    drawn = [draw_pairs(PEOPLE, num_pairs=60, num_folds=3, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_too_few_same_pairs_are_an_error_not_a_hang() -> None:
    with pytest.raises(DataError, match="fold 1: its 4 identities give 24 same pairs; expected 40"):
        draw_pairs(PEOPLE, num_pairs=240, num_folds=3, seed=0)


def test_command_writes_lines_and_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for path in [path for paths in PEOPLE.values() for path in paths]:
        (tmp_path / "faces" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / path).touch()
    argv = [str(tmp_path / "faces"), str(tmp_path / "pairs.txt"), "--pairs", "40", "--folds", "2"]
    assert main(argv) == 0
    lines = (tmp_path / "pairs.txt").read_text().splitlines()
    assert len(lines) == 40
    assert sum(line.endswith("\t1") for line in lines) == 20
    assert "drew 40 pairs in 2 folds from 12 identities" in capsys.readouterr().out
    assert main(argv) == 1
    assert "exists already" in capsys.readouterr().err
