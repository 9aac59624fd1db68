"""Measure cleaning and blind clustering on photos of known people.

    python benchmarks/cleaning.py aligned/ embedded/ work/ --seeds 10 11 12 13 14

ALIGNED and EMBEDDED are what align_faces.py and embed_faces.py made of photos sorted by person. Four
experiments on the people with --least pictures or more:

  swap   a share of the pictures is swapped between people at random, and clean_faces.py runs on the result
  merge  a tenth of the people is cut into two identities, which the step merge should find
  tests  a picture of every other person is a test set, whose people the step tests should remove
  blind  all faces are clustered without their names, at a threshold that other people choose

An embedding does not depend on the folder a picture lies in, so pictures are embedded once (dlib, for `tests`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import numpy as np

from recognition.cli import make_parser, positive_int, run_command
from recognition.clustering.graph import pairs_above
from recognition.clustering.scores import bcubed, pairwise
from recognition.clustering.weights import weigh_edges
from recognition.clustering.whispers import chinese_whispers
from recognition.embedding.store import BLOCK, EmbeddingStore, Keyed, read_embeddings
from recognition.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ("swap", "merge", "tests", "blind")
FALSE_SHARE = 1e-3  # of the pairs of other people that exceed the threshold of `blind`
LOOSER = (0.9, 0.95, 1.0, 1.05, 1.1)  # of the threshold's Euclidean distance: what an unlucky choice costs


@dataclass(frozen=True)
class People:
    """Faces of known people: their names below the folder of faces, their identity and embedding."""

    faces: Path
    names: list[str]
    labels: np.ndarray
    vectors: np.ndarray

    def select(self, chosen: np.ndarray) -> People:
        """Return the chosen rows."""
        rows = np.flatnonzero(chosen)
        return People(self.faces, [self.names[row] for row in rows], self.labels[rows], self.vectors[rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, and return the exit status."""
    parser = make_parser("cleaning", __doc__)
    add = parser.add_argument
    add("faces", type=Path, metavar="ALIGNED")
    add("embeddings", type=Path, metavar="EMBEDDED")
    add("work", type=Path, metavar="WORK", help="folder for the swapped sets; replaced")
    add("--least", type=positive_int, default=4, metavar="N", help="pictures of a person (default: 4)")
    add("--share", type=float, default=0.1, help="of the pictures, swapped (default: 0.1)")
    add("--seeds", type=int, nargs="+", default=[0], metavar="S", help="of the swaps (default: 0)")
    add("--people", choices=("all", "even", "odd"), default="all", help="all, or every other person (default: all)")
    add("--flags", default="", help="further flags of clean_faces.py, in one argument")
    add("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), help="default: all")
    return run_command(parser, _run, argv)


def swap_labels(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the labels with a share of them exchanged at random, each for another person's."""
    generator = np.random.default_rng(seed)
    rows = generator.choice(len(labels), round(share * len(labels)), replace=False)
    given = labels[rows]
    while (same := np.flatnonzero(given == labels[rows])).size:
        other = generator.choice(len(rows), len(same))
        for a, b in zip(same, other):
            given[[a, b]] = given[[b, a]]
    swapped = labels.copy()
    swapped[rows] = given
    return swapped


def cut_labels(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the labels with every tenth person's pictures cut into two halves at random, one under a new label."""
    generator = np.random.default_rng(seed)
    cut = labels.copy()
    for label in generator.permutation(np.unique(labels))[::10]:
        rows = generator.permutation(np.flatnonzero(labels == label))
        cut[rows[: len(rows) // 2]] = label + labels.max() + 1
    return cut


def write_set(people: People, labels: np.ndarray, folder: Path) -> list[str]:
    """Write `folder`/faces (links) and `folder`/embedded with these labels; return the new name of each picture."""
    shutil.rmtree(folder, ignore_errors=True)
    owner = {label: name.rpartition("/")[0] for name, label in zip(people.names, people.labels.tolist())}
    new = {
        label: owner.get(label) or f"{owner[label - people.labels.max() - 1]}, cut off"
        for label in set(labels.tolist())
    }
    names = [f"{new[label]}/{name.rpartition('/')[2]}" for name, label in zip(people.names, labels.tolist())]
    if len(set(names)) < len(names):
        raise DataError("two pictures have one name after the swap; expected names that differ; rename the files")
    for old, name in zip(people.names, names):
        _link(people.faces / old, folder / "faces" / name)
    order = sorted(range(len(names)), key=names.__getitem__)
    store = EmbeddingStore.begin(folder / "embedded", len(names), people.vectors.shape[1], {"model": "dlib"})
    for block, start in enumerate(range(0, len(names), BLOCK)):
        store.write(block, people.vectors[order[start : start + BLOCK]])
    store.publish((Keyed(names[row], int(labels[row])) for row in order), {"model": "dlib"})
    return names


def clean(folder: Path, names: Sequence[str], *flags: str) -> list[dict[str, Any]]:
    """Run clean_faces.py on a written set and return its decisions in the order of `names`."""
    script = str(ROOT / "data_tools" / "clean_faces.py")
    paths = [str(folder / name) for name in ("faces", "cleaned")]
    command = [sys.executable, script, *paths, "--embeddings", str(folder / "embedded"), "--quiet", *flags]
    subprocess.run(command, check=True, stdout=sys.stderr)
    with open(folder / "cleaned" / "decisions.jsonl", encoding="utf-8") as handle:
        decided = {line["picture"]: line for line in map(json.loads, handle)}
    return [decided[name] for name in names]


def measure_swap(people: People, share: float, seed: int, folder: Path, flags: Sequence[str]) -> dict[str, float]:
    """Return what became of the swapped pictures and of the right ones."""
    labels = swap_labels(people.labels, share, seed)
    lines = clean(folder, write_set(people, labels, folder), *flags)
    swapped = labels != people.labels
    gone = np.array([line["decision"] != "keep" for line in lines])
    moved = np.array([line["decision"] == "move" for line in lines])
    home = np.array([line["to"] == name.rpartition("/")[0] for line, name in zip(lines, people.names)])
    double = np.array([line["reason"] == "near_duplicate" for line in lines])
    return {
        "swapped": int(swapped.sum()),
        "caught": _share(gone, swapped),
        "brought home": _share(home, swapped),
        "moved astray": int((moved & ~home).sum()),
        "right ones lost": _share(gone, ~swapped),
        "of them near duplicates": _share(double, ~swapped),
    }


def measure_merge(people: People, seed: int, folder: Path) -> dict[str, float]:
    """Return how many of the people that were cut in two are found, and how many others are taken for one."""
    labels = cut_labels(people.labels, seed)
    lines = clean(folder, write_set(people, labels, folder), "--steps", "merge")
    merged = {(line["identity"], line["to"]) for line in lines if line["decision"] == "move"}
    right = sum({a, b} == {a.removesuffix(", cut off"), a.removesuffix(", cut off") + ", cut off"} for a, b in merged)
    return {"cut": len(np.unique(labels)) - len(np.unique(people.labels)), "found": right, "false": len(merged) - right}


def measure_tests(people: People, seed: int, folder: Path) -> dict[str, float]:
    """Return the share of the people in a test set that are removed, and that of the others."""
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(people.names))
    first = rows[np.unique(people.labels[rows], return_index=True)[1]]  # a random picture of each person
    held_out = np.zeros(len(rows), bool)
    held_out[first[::2]] = True
    rest = people.select(~held_out)
    names = write_set(rest, rest.labels, folder)
    for row in np.flatnonzero(held_out):
        _link(people.faces / people.names[row], folder / "tested" / people.names[row])
    lines = clean(folder, names, "--steps", "tests", "--against", str(folder / "tested"))
    gone = {line["identity"] for line in lines if line["decision"] == "drop"}
    tested = {people.names[row].rpartition("/")[0] for row in np.flatnonzero(held_out)}
    others = {line["identity"] for line in lines} - tested
    return {
        "in the test set": len(tested),
        "removed": len(gone & tested) / len(tested),
        "others": len(others),
        "removed of them": len(gone & others) / len(others),
    }


def choose_threshold(others: People) -> float:
    """Return the cosine that one in a thousand pairs of different people exceeds."""
    units = others.vectors / np.linalg.norm(others.vectors, axis=1, keepdims=True)
    cosines = (units @ units.T)[np.triu_indices(len(units), 1)]
    apart = (others.labels[:, None] != others.labels)[np.triu_indices(len(units), 1)]
    return float(np.quantile(cosines[apart], 1 - FALSE_SHARE))


def cluster_blind(people: People, threshold: float, weights: str) -> dict[str, float]:
    """Return how well clusters at a threshold agree with the people."""
    graph = weigh_edges(pairs_above(people.vectors, threshold), threshold, weights)  # type: ignore[arg-type]
    clusters = chinese_whispers(graph)
    return {
        "pairwise_f": pairwise(clusters, people.labels).f,
        "bcubed_f": bcubed(clusters, people.labels).f,
        "clusters": len(np.unique(clusters)),
    }


def _run(args: argparse.Namespace) -> None:
    store = read_embeddings(args.embeddings)
    everyone = People(args.faces, store.keys, store.labels, np.asarray(store.vectors))
    many = np.bincount(store.labels)[store.labels] >= args.least
    people = everyone.select(many)
    if args.people != "all":
        rank = np.unique(people.labels, return_inverse=True)[1]
        people = people.select(rank % 2 == ("even", "odd").index(args.people))
    print(f"{len(people.names):,} pictures of {len(np.unique(people.labels)):,} people")
    measures: dict[str, Callable[[int], dict[str, float]]] = {
        "swap": lambda seed: measure_swap(people, args.share, seed, args.work / f"swap{seed}", args.flags.split()),
        "merge": lambda seed: measure_merge(people, seed, args.work / f"merge{seed}"),
        "tests": lambda seed: measure_tests(people, seed, args.work / f"tests{seed}"),
    }
    for name, measure in measures.items():
        if name in args.experiments:
            _measure_seeds(name, measure, args.seeds)
    if "blind" in args.experiments:
        _measure_blind(people, everyone.select(~many))


def _measure_seeds(name: str, measure: Callable[[int], dict[str, float]], seeds: Sequence[int]) -> None:
    results = []
    for seed in seeds:
        results.append(measure(seed))
        print(f"{name}, seed {seed}: {_shown(results[-1])}", flush=True)
    print(f"{name}, mean: {_shown({key: float(np.mean([r[key] for r in results])) for key in results[0]})}", flush=True)


def _measure_blind(people: People, others: People) -> None:
    threshold = choose_threshold(others)
    print(f"blind, the threshold of {len(others.names):,} pictures of other people: {threshold:.4f}")
    for factor in LOOSER:
        loosened = 1 - factor**2 * (1 - threshold)
        for weights in ("equal", "excess", "excess2"):
            result = cluster_blind(people, loosened, weights)
            print(f"distance x {factor:.2f}, cosine {loosened:.4f}, {weights:8}: {_shown(result)}")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source.resolve())


def _share(found: np.ndarray, among: np.ndarray) -> float:
    return float(found[among].mean()) if among.any() else float("nan")


def _shown(result: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" if value % 1 else f"{name} {value:.0f}" for name, value in result.items())


if __name__ == "__main__":
    sys.exit(main())
