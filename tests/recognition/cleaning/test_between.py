"""The steps between identities: what is one person becomes one, what lies elsewhere goes home, and nothing chains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.cleaning.between import merge_identities, move_misplaced
from recognition.cleaning.decisions import KEEP, MOVE, apply_changes
from recognition.cleaning.within import drop_far
from tests.helpers.people import names_of, open_set, people, person_vectors


def _moves(context, decisions, changes) -> dict[str, str]:  # type: ignore[no-untyped-def]
    after = apply_changes(decisions, changes, context.pictures.labels)
    return {context.pictures.name(row): after.identities[to] for row, to in zip(changes.rows.tolist(), changes.to)}


def test_identities_of_one_person_become_the_largest_of_them(tmp_path: Path) -> None:
    vectors = people({"a": 3, "b": 5, "c": 4})
    vectors |= {f"a again/{i}.jpg": vector for i, vector in enumerate(person_vectors(0, 6, seed=5))}
    vectors |= {f"a third/{i}.jpg": vector for i, vector in enumerate(person_vectors(0, 2, seed=6))}
    context, decisions = open_set(tmp_path, vectors, merge=0.6)
    moves = _moves(context, decisions, merge_identities(context, decisions))
    assert set(moves.values()) == {"a again"}
    assert sorted(moves) == [f"a third/{i}.jpg" for i in range(2)] + [f"a/{i:03}.jpg" for i in range(3)]


def test_single_pictures_are_not_merged(tmp_path: Path) -> None:
    vectors = people({"a": 3, "b": 4}) | {"a again/0.jpg": person_vectors(0, 1, seed=5)[0]}
    vectors["a third/0.jpg"] = person_vectors(0, 1, seed=6)[0]
    context, decisions = open_set(tmp_path, vectors, merge=0.6)
    assert len(merge_identities(context, decisions)) == 0


def test_merging_does_not_chain(tmp_path: Path) -> None:
    angles = {"a": (0, 4), "b": (40, 3), "c": (80, 2)}  # b agrees with both, a and c do not
    vectors = {
        f"{name}/{i}.jpg": np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], np.float32)
        for name, (angle, count) in angles.items()
        for i in range(count)
    }
    context, decisions = open_set(tmp_path, vectors, merge=0.7)
    moves = _moves(context, decisions, merge_identities(context, decisions))
    assert moves == {f"b/{i}.jpg": "a" for i in range(3)}


def test_nothing_to_merge_changes_nothing(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, people({"a": 3, "b": 3}), merge=0.6)
    assert len(merge_identities(context, decisions)) == 0


def test_pictures_in_another_identity_go_home(tmp_path: Path) -> None:
    vectors = people({"a": 6, "b": 6, "c": 6})
    vectors["a/stray.jpg"] = person_vectors(1, 1, seed=3)[0]
    vectors["c/nobody.jpg"] = person_vectors(9, 1)[0]
    context, decisions = open_set(tmp_path, vectors, misplaced=0.6, far=0.5)
    assert _moves(context, decisions, move_misplaced(context, decisions)) == {"a/stray.jpg": "b"}
    # Dropped before, it comes back where it belongs; who belongs nowhere stays away.
    dropped = apply_changes(decisions, drop_far(context, decisions), context.pictures.labels)
    changes = move_misplaced(context, dropped)
    assert _moves(context, dropped, changes) == {"a/stray.jpg": "b"}
    after = apply_changes(dropped, changes, context.pictures.labels)
    assert names_of(context, np.flatnonzero(after.action == MOVE)) == ["a/stray.jpg"]
    assert names_of(context, np.flatnonzero(~after.kept)) == ["c/nobody.jpg"]


def test_a_picture_that_agrees_with_its_own_identity_as_well_stays(tmp_path: Path) -> None:
    vectors = people({"a": 6}) | {f"b/{i}.jpg": v for i, v in enumerate(person_vectors(0, 6, seed=4))}
    context, decisions = open_set(tmp_path, vectors, misplaced=0.6)
    assert len(move_misplaced(context, decisions)) == 0


@pytest.mark.parametrize(("angle", "moved"), [(33, []), (38, ["b"])])
def test_a_picture_moves_only_when_it_agrees_clearly_better_elsewhere(
    tmp_path: Path, angle: float, moved: list[str]
) -> None:
    """Between people 60 degrees apart: cos 27 - cos 33 = 0.05 and cos 22 - cos 38 = 0.14, and the margin is 0.1."""
    angles = {**{f"a/{i}.jpg": 0.0 for i in range(6)}, "a/x.jpg": angle, **{f"b/{i}.jpg": 60.0 for i in range(6)}}
    vectors = {name: np.array([np.cos(a), np.sin(a)], np.float32) for name, a in _radians(angles).items()}
    context, decisions = open_set(tmp_path, vectors, misplaced=0.5)
    assert context.spread / 2 == 0.1
    assert list(_moves(context, decisions, move_misplaced(context, decisions)).values()) == moved


def _radians(angles: dict[str, float]) -> dict[str, float]:
    return {name: float(np.radians(angle)) for name, angle in angles.items()}


def test_an_identity_of_one_picture_neither_gives_nor_takes(tmp_path: Path) -> None:
    vectors = people({"a": 6, "b": 5})
    vectors["single/0.jpg"] = person_vectors(0, 1, seed=8)[0]
    vectors["b/stray.jpg"] = person_vectors(7, 1, seed=1)[0]
    vectors["single of 7/0.jpg"] = person_vectors(7, 1, seed=2)[0]
    context, decisions = open_set(tmp_path, vectors, misplaced=0.6)
    assert len(move_misplaced(context, decisions)) == 0


def test_a_picture_moved_back_to_its_own_folder_is_kept(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, people({"a": 3, "b": 3}), misplaced=0.6)
    changes = move_misplaced(context, decisions)
    there = type(changes)("other_identity", *(np.array([x]) for x in (0, 0.7, 0.1)), np.array([1], np.int32))
    back = type(changes)("other_identity", *(np.array([x]) for x in (0, 0.8, 0.1)), np.array([0], np.int32))
    moved = apply_changes(decisions, there, context.pictures.labels)
    assert moved.action[0] == MOVE and moved.identity[0] == 1
    assert apply_changes(moved, back, context.pictures.labels).action[0] == KEEP
