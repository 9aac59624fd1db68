"""Dropping whole identities: those of test sets, by embedding and by name, and small ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recognition.cleaning.decisions import Changes, apply_changes
from recognition.cleaning.exclusion import check_names, drop_small, drop_tested, plain_name
from recognition.cleaning.settings import CleanSettings
from recognition.errors import DataError
from tests.helpers.name_forms import FORMS
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


@pytest.mark.parametrize("form", FORMS)
def test_planted_people_of_a_test_set_are_gone_whatever_the_list_looks_like(tmp_path: Path, form: str) -> None:
    context, decisions = open_set(tmp_path, people({"Ann_Lee": 2, "José Ruiz": 3, "Stranger": 2}), tests=0.6)
    (tmp_path / "list").write_text(FORMS[form], encoding="utf-8", newline="")
    changes = drop_tested(replace(context, settings=CleanSettings(against_names=(tmp_path / "list",))), decisions)
    gone = {name.rpartition("/")[0] for name in names_of(context, changes.rows)}
    assert gone == {"Ann_Lee", "José Ruiz"} and len(changes) == 5


def test_a_test_person_that_was_merged_or_moved_goes_too(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, people({"tested": 2, "alias": 2, "c": 3}), tests=0.6)
    number = {name: i for i, name in enumerate(decisions.identities)}
    rows = np.flatnonzero(decisions.identity == number["tested"])
    score, doubt = np.ones(2, np.float32), np.zeros(2, np.float32)
    (tmp_path / "list").write_text("tested\n", encoding="utf-8")
    context = replace(context, settings=CleanSettings(against_names=(tmp_path / "list",)))
    merged = Changes("merged", rows, score, doubt, np.full(2, number["alias"], np.int32))
    changes = drop_tested(context, apply_changes(decisions, merged, context.pictures.labels))
    expected = ["alias/000.jpg", "alias/001.jpg", "tested/000.jpg", "tested/001.jpg"]
    assert sorted(names_of(context, changes.rows)) == expected
    moved = Changes("other_identity", rows[:1], score[:1], doubt[:1], np.full(1, number["c"], np.int32))
    changes = drop_tested(context, apply_changes(decisions, moved, context.pictures.labels))
    assert sorted(names_of(context, changes.rows)) == ["tested/000.jpg", "tested/001.jpg"]


def test_names_that_are_no_identitys_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "list").write_text("Bob\n" + "".join(f"Nobody {i}x\n" for i in range(7)), encoding="utf-8")
    check_names([tmp_path / "list"], ["ann", "bob"])
    assert caplog.messages == [
        f"{tmp_path / 'list'}: 7 of 8 names are no identity's: "
        "Nobody 0x, Nobody 1x, Nobody 2x, Nobody 3x, Nobody 4x, ..."
    ]
    with pytest.raises(DataError, match=r"list: 8 of 8 names are no identity's: Bob, .*; expected .* such as 'ann'; "):
        check_names([tmp_path / "list"], ["ann", "zoe"])


def test_small_identities_go(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, people({"a": 3, "b": 1, "c": 2}))
    assert names_of(context, drop_small(context, decisions).rows) == ["b/000.jpg"]
    assert len(drop_small(replace(context, settings=CleanSettings(least_pictures=4)), decisions)) == 6
