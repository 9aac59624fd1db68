"""The steps inside an identity, on people whose strangers and copies are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from recognition.cleaning.decisions import DROP, MOVE, apply_changes
from recognition.cleaning.settings import CleanSettings
from recognition.cleaning.within import drop_duplicates, drop_far, drop_minorities
from tests.helpers.people import names_of, open_set, people, person_vectors


def _with_strangers() -> dict[str, np.ndarray]:
    """Four people; a has one stranger, b three of one other person, c none, d two pictures that disagree."""
    vectors = people({"a": 6, "b": 7, "c": 5})
    vectors["a/9.jpg"] = person_vectors(10, 1)[0]
    vectors |= {f"b/x{i}.jpg": vector for i, vector in enumerate(person_vectors(11, 3))}
    vectors |= {
        "d/0.jpg": person_vectors(12, 1)[0],
        "d/1.jpg": person_vectors(13, 1)[0],
        "e/0.jpg": vectors["c/000.jpg"],
    }
    return vectors


def test_what_is_not_in_the_main_cluster_goes(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, _with_strangers(), within=0.5)
    changes = drop_minorities(context, decisions)
    expected = ["a/9.jpg", "b/x0.jpg", "b/x1.jpg", "b/x2.jpg", "d/1.jpg"]
    assert names_of(context, changes.rows) == expected
    after = apply_changes(decisions, changes, context.pictures.labels)
    assert sorted(context.pictures.name(row) for row in np.flatnonzero(after.action == DROP)) == expected
    stranger = changes.rows.tolist().index(next(r for r in changes.rows if context.pictures.name(r) == "a/9.jpg"))
    own = np.stack([vector for name, vector in _with_strangers().items() if name[0] == "a" and name != "a/9.jpg"])
    assert abs(changes.score[stranger] - np.mean(own @ person_vectors(10, 1)[0])) < 1e-5
    assert (changes.doubt < 1).all()


def test_a_picture_that_agrees_well_enough_stays_outside_the_cluster(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, _with_strangers(), within=0.5, far=-0.9)
    assert len(drop_minorities(context, decisions)) == 0


def test_large_minorities_become_identities_of_their_own(tmp_path: Path) -> None:
    vectors = _with_strangers() | {"b (2)/0.jpg": person_vectors(20, 1)[0]}
    context, decisions = open_set(tmp_path, vectors, within=0.5)
    changes = drop_minorities(replace(context, settings=CleanSettings(split=3)), decisions)
    after = apply_changes(decisions, changes, context.pictures.labels)
    assert after.identities[len(decisions.identities) :] == ["b (3)"]
    moved = np.flatnonzero(after.action == MOVE)
    assert names_of(context, moved) == ["b/x0.jpg", "b/x1.jpg", "b/x2.jpg"]
    assert {after.identities[i] for i in after.identity[moved]} == {"b (3)"}
    assert names_of(context, np.flatnonzero(after.action == DROP)) == ["a/9.jpg", "d/1.jpg"]


def test_pictures_far_from_their_identity_go_even_when_many(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, _with_strangers(), far=0.5)
    changes = drop_far(context, decisions)
    expected = ["a/9.jpg", "b/x0.jpg", "b/x1.jpg", "b/x2.jpg", "d/0.jpg", "d/1.jpg"]
    assert names_of(context, changes.rows) == expected
    assert (changes.score < 0.5).all()
    context, decisions = open_set(tmp_path / "again", people({"a": 5, "b": 1}), far=0.5)
    assert len(drop_far(context, decisions)) == 0


def test_of_near_duplicates_the_best_one_stays(tmp_path: Path) -> None:
    vectors = people({"a": 6, "b": 4})
    center = np.mean([vectors[f"a/{i:03}.jpg"] for i in range(6)], 0)
    worse = vectors["a/001.jpg"] - 0.05 * center
    vectors["a/copy.jpg"] = worse / np.linalg.norm(worse)
    vectors["b/copy.jpg"] = vectors["b/002.jpg"]
    vectors["b/other copy.jpg"] = vectors["b/002.jpg"]
    context, decisions = open_set(tmp_path, vectors, duplicates=0.99)
    changes = drop_duplicates(context, decisions)
    assert names_of(context, changes.rows) == ["a/copy.jpg", "b/copy.jpg", "b/other copy.jpg"]
    assert (changes.score > 0.99).all()


def test_a_chain_of_likenesses_is_not_dropped_whole(tmp_path: Path) -> None:
    angles = np.radians([0, 5, 10, 15, 20])
    vectors = {f"a/{i}.jpg": np.array([np.cos(t), np.sin(t)], np.float32) for i, t in enumerate(angles)}
    context, decisions = open_set(tmp_path, vectors, duplicates=float(np.cos(np.radians(6))))
    # The middle agrees best and stays; its neighbors go; the ends are 10 degrees away and stay.
    assert names_of(context, drop_duplicates(context, decisions).rows) == ["a/1.jpg", "a/3.jpg"]


def test_dropped_pictures_are_not_asked_again(tmp_path: Path) -> None:
    context, decisions = open_set(tmp_path, _with_strangers(), within=0.5, far=0.5)
    after = apply_changes(decisions, drop_minorities(context, decisions), context.pictures.labels)
    assert len(drop_far(context, after)) == 0
