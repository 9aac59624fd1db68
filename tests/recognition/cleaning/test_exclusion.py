"""Dropping whole identities: those of test sets, by embedding and by name, and small ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recognition.cleaning.exclusion import drop_small, drop_tested, plain_name, read_names
from recognition.cleaning.settings import CleanSettings
from recognition.errors import DataError
from tests.helpers.people import names_of, open_set, people, person_vectors


def test_everybody_in_a_test_set_goes(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, people({"a": 4, "b": 3, "c": 5}), tests=0.6)
    sets = {"first.bin": person_vectors(0, 2, seed=3) * 7, "second": person_vectors(30, 5)}
    embed = lambda path, number: list(sets.values())[number]  # noqa: E731
    tested = replace(context, settings=CleanSettings(against=(Path("first.bin"), Path("second"))), embed_set=embed)
    changes = drop_tested(tested, decisions)
    assert names_of(context, changes.rows) == [f"a/{i:03}.jpg" for i in range(4)]
    own = np.stack(list(people({"a": 4}).values())).mean(0)
    assert np.allclose(changes.score, max(person_vectors(0, 2, seed=3) @ own), atol=1e-5)


def test_a_test_set_of_another_network_is_refused(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, people({"a": 4}), tests=0.6)
    tested = replace(
        context,
        settings=CleanSettings(against=(Path("x.bin"),)),
        embed_set=lambda path, number: np.ones((3, 5), np.float32),
    )
    with pytest.raises(DataError, match=r"x\.bin: embeds to 5 numbers, the faces to 64; expected the same network"):
        drop_tested(tested, decisions)


def test_names_are_compared_without_case_and_joints(tmp_path: Path) -> None:
    assert plain_name("Jean-Luc_PICARD") == plain_name("jean luc picard") != plain_name("jeanluc picard")
    context, decisions = open_set(tmp_path, people({"Ann Lee": 2, "bob": 3}), tests=0.6)
    (tmp_path / "lfw" / "Ann_Lee").mkdir(parents=True)
    (tmp_path / "list.txt").write_text("\nBOB\n", encoding="utf-8")
    by_folder = drop_tested(replace(context, settings=CleanSettings(against_names=(tmp_path / "lfw",))), decisions)
    assert names_of(context, by_folder.rows) == ["Ann Lee/000.jpg", "Ann Lee/001.jpg"]
    assert np.isnan(by_folder.score).all() and (by_folder.doubt == 0).all()
    by_list = drop_tested(replace(context, settings=CleanSettings(against_names=(tmp_path / "list.txt",))), decisions)
    assert names_of(context, by_list.rows) == [f"bob/{i:03}.jpg" for i in range(3)]


def test_a_list_without_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"empty\.txt: holds no names; expected a folder for each identity"):
        read_names(tmp_path / "empty.txt")
    for path in (tmp_path / "binary", tmp_path / "absent"):
        with pytest.raises(DataError, match=r"cannot be read .*; expected a folder of identities or a list of names"):
            read_names(path)


def test_small_identities_go(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, people({"a": 3, "b": 1, "c": 2}))
    assert names_of(context, drop_small(context, decisions).rows) == ["b/000.jpg"]
    assert len(drop_small(replace(context, settings=CleanSettings(least_pictures=4)), decisions)) == 6
