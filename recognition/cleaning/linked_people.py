"""Names that belong on one side of training and test: they share a picture, or may be one person. Torch-free.

A link costs little where it is wrong, for two strangers then only stay together, and much where it is missing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from recognition.cleaning.decision_file import read_decisions
from recognition.console import progress
from recognition.formats.class_names import NameNotes
from recognition.formats.image_list import ImageList, LstFile
from recognition.formats.image_tree import identity_of
from recognition.formats.text_lines import refuse_unlistable
from recognition.images.codec import decode_rgb, read_image_file
from recognition.images.duplicates import image_hash, near_duplicates
from recognition.work.threads import ordered_map

MOST_NAMES = 4
"""Of a group that may be set aside: a longer chain of links is not one person, and stays in training whole."""

Link = tuple[int, int]
"""Two people by their place in `People.names`."""


@dataclass(frozen=True)
class People:
    """The people of a folder or list: their names, sorted, and the pictures of each, paths below the root, sorted."""

    names: list[str]
    pictures: list[list[str]]

    @property
    def owners(self) -> np.ndarray:
        """Which person each picture shows, int64 [n], in the order of the people and of their pictures."""
        return np.repeat(np.arange(len(self.names)), [len(own) for own in self.pictures])

    def own_pictures(self, person: int) -> list[str]:
        """Return the pictures that lie in the folder with the person's name; all, where no folder has it.

        What cleaning moved here from another folder is left out: it is less sure, and its path names somebody else.
        """
        name, pictures = self.names[person], self.pictures[person]
        return [picture for picture in pictures if identity_of(picture) == name] or pictures


@dataclass
class Links:
    """Why names stay together: source of the links -> the pairs of people."""

    by_source: dict[str, set[Link]] = field(default_factory=dict)

    def add(self, source: str, links: Iterable[Link]) -> None:
        """Add links that `source` knows, each once whatever its order."""
        self.by_source.setdefault(source, set()).update((min(link), max(link)) for link in links)

    def groups(self, num_people: int) -> list[list[int]]:
        """Return the people in groups, each with everybody it is linked to directly or by others; both sorted."""
        parent = list(range(num_people))

        def root(person: int) -> int:
            while parent[person] != person:
                parent[person] = parent[parent[person]]
                person = parent[person]
            return person

        for links in self.by_source.values():
            for first, second in links:
                low, high = sorted((root(first), root(second)))
                parent[high] = low
        found: dict[int, list[int]] = {}
        for person in range(num_people):
            found.setdefault(root(person), []).append(person)
        return list(found.values())


@dataclass(frozen=True)
class Sides:
    """Who is set aside: one person a group of names, the first of which gives pairs; and who could not be, and why."""

    aside: list[list[int]]
    num_single: int
    """Groups without a person of two pictures that differ: they give no pair of one person."""
    num_chained: int
    """Groups of more than MOST_NAMES names."""


def list_people(images: ImageList) -> People:
    """Return the people of a folder or a .lst, named by the folders, or by the .names beside the list.

    Raises DataError for a path that no list can hold. A class without a name of its own is called by its number.
    """
    notes = NameNotes(images.path if isinstance(images, LstFile) else None)
    pictures: dict[int, list[str]] = {}
    for image in images:
        refuse_unlistable(image.name)
        notes.add(image.label, image.name)
        pictures.setdefault(image.label, []).append(image.name)
    times: dict[str, int] = {}
    for name in notes.names.values():
        times[name] = times.get(name, 0) + 1
    named = {label: name if name and times[name] == 1 else str(label) for label, name in notes.names.items()}
    labels = sorted(pictures, key=lambda label: (named[label], label))
    return People([named[label] for label in labels], [sorted(pictures[label]) for label in labels])


def hash_pictures(people: People, root: Path, *, workers: int, quiet: bool) -> np.ndarray:
    """Return the fingerprints uint64 [n, 2] of all pictures; DataError for one that is missing or does not decode."""
    names = [picture for own in people.pictures for picture in own]
    hashed = ordered_map(partial(_hash_of, root), names, workers=workers)
    shown = progress(hashed, total=len(names), unit="image", label="compare", quiet=quiet)
    return np.array(list(shown), dtype=np.uint64).reshape(-1, 2)


def copies(people: People, hashes: np.ndarray) -> tuple[set[Link], set[str]]:
    """Return the people of whom one has nearly a picture of the other, and of each person's pictures that are nearly
    one another all but the first."""
    owners, names = people.owners, [picture for own in people.pictures for picture in own]
    links, again = set[Link](), set[str]()
    for first, second in near_duplicates(hashes).tolist():
        if owners[first] == owners[second]:
            again.add(names[second])
        else:
            links.add((int(owners[first]), int(owners[second])))
    return links, again


def moves(people: People, decisions: Path) -> set[Link]:
    """Return the people between whom cleaning or its reviewer moved pictures, by the lines of a decisions.jsonl."""
    number = {name: person for person, name in enumerate(people.names)}
    moved = ((line.identity, line.to) for line in read_decisions(decisions) if line.to is not None)
    return {(number[one], number[other]) for one, other in moved if one in number and other in number}


def choose_sides(
    people: People, groups: Sequence[Sequence[int]], *, num: int, seed: int, usable: Callable[[int], int]
) -> Sides:
    """Choose at random at most `num` groups to set aside, each with the person of most pictures first.

    `usable` returns how many pictures of a person pairs may show.
    """
    chained = [group for group in groups if len(group) > MOST_NAMES]
    ordered = [sorted(group, key=lambda i: (-usable(i), i)) for group in groups if len(group) <= MOST_NAMES]
    able = [group for group in ordered if usable(group[0]) > 1]
    by_name = sorted(able, key=lambda group: people.names[min(group)])
    random.Random(seed).shuffle(by_name)
    return Sides(by_name[:num], len(ordered) - len(able), len(chained))


def pictures_for_pairs(people: People, sides: Sides, again: set[str]) -> Mapping[str, list[str]]:
    """Return person -> pictures of those set aside, one name of each group, no picture twice."""
    first = (group[0] for group in sides.aside)
    return {people.names[i]: [p for p in people.own_pictures(i) if p not in again] for i in first}


def _hash_of(root: Path, name: str) -> tuple[int, int]:
    path = root / name
    return image_hash(decode_rgb(read_image_file(path), place=str(path)))
