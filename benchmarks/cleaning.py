"""Measure cleaning and blind clustering on photos of known people.

    python benchmarks/cleaning.py aligned/ embedded/ work/ --seeds 10 11 12 13 14

ALIGNED and EMBEDDED are what align_faces.py and embed_faces.py made of photos sorted by person. Of the people with
--least pictures or more, a share of the pictures is swapped between people at random, clean_faces.py runs on the
result, and what it does with swapped and with right pictures is counted. Then all those faces are clustered without
their names, at the cosine that one in a thousand pairs of the other people exceeds. An embedding does not depend on
the folder a picture lies in, so pictures are embedded once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import numpy as np

from recognition.cli import make_parser, positive_int, run_command
from recognition.clustering.graph import pairs_above
from recognition.clustering.scores import bcubed, pairwise
from recognition.clustering.weights import weigh_edges
from recognition.clustering.whispers import chinese_whispers
from recognition.embedding_store import BLOCK, EmbeddingStore, Keyed, read_embeddings
from recognition.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
FALSE_SHARE = 1e-3
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
    add("--skip-blind", action="store_true", help="only clean")
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


def write_set(people: People, labels: np.ndarray, folder: Path) -> list[str]:
    """Write `folder`/faces (links) and `folder`/embedded with these labels; return the new name of each picture."""
    owner = {label: name.rpartition("/")[0] for name, label in zip(people.names, people.labels.tolist())}
    names = [f"{owner[label]}/{name.rpartition('/')[2]}" for name, label in zip(people.names, labels.tolist())]
    if len(set(names)) < len(names):
        raise DataError("two pictures have one name after the swap; expected names that differ; rename the files")
    for old, new in zip(people.names, names):
        target = folder / "faces" / new
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link((people.faces / old).resolve(), target)
    order = sorted(range(len(names)), key=names.__getitem__)
    store = EmbeddingStore.begin(folder / "embedded", len(names), people.vectors.shape[1], {"model": "dlib"})
    for block, start in enumerate(range(0, len(names), BLOCK)):
        store.write(block, people.vectors[order[start : start + BLOCK]])
    store.publish((Keyed(names[row], int(labels[row])) for row in order), {"model": "dlib"})
    return names


def count_caught(people: People, labels: np.ndarray, names: list[str], cleaned: Path) -> dict[str, float]:
    """Return what became of the swapped pictures and of the right ones."""
    with open(cleaned / "decisions.jsonl", encoding="utf-8") as handle:
        decided = {line["picture"]: line for line in map(json.loads, handle)}
    owner = [name.rpartition("/")[0] for name in people.names]
    swapped = labels != people.labels
    lines = [decided[name] for name in names]
    gone = np.array([line["decision"] != "keep" for line in lines])
    dropped = np.array([line["decision"] == "drop" for line in lines])
    home = np.array([line["to"] == name for line, name in zip(lines, owner)])
    return {
        "swapped": int(swapped.sum()),
        "caught": float(gone[swapped].mean()),
        "brought_home": float(home[swapped].mean()),
        "moved_astray": int((gone & ~dropped & ~home).sum()),
        "right_lost": float(gone[~swapped].mean()),
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
    results = [_measure_swap(args, people, seed) for seed in args.seeds]
    for seed, result in zip(args.seeds, results):
        print(f"seed {seed}: {_shown(result)}")
    print(f"mean: {_shown({name: float(np.mean([r[name] for r in results])) for name in results[0]})}")
    if not args.skip_blind:
        _measure_blind(people, everyone.select(~many))


def _measure_swap(args: argparse.Namespace, people: People, seed: int) -> dict[str, float]:
    folder = args.work / f"seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    labels = swap_labels(people.labels, args.share, seed)
    names = write_set(people, labels, folder)
    script = str(ROOT / "data_tools" / "clean_faces.py")
    paths = [str(folder / name) for name in ("faces", "cleaned")]
    command = [sys.executable, script, *paths, "--embeddings", str(folder / "embedded"), "--quiet", *args.flags.split()]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return count_caught(people, labels, names, folder / "cleaned")


def _measure_blind(people: People, others: People) -> None:
    threshold = choose_threshold(others)
    print(f"blind, the threshold of {len(others.names):,} pictures of other people: {threshold:.4f}")
    for factor in LOOSER:
        loosened = 1 - factor**2 * (1 - threshold)
        for weights in ("equal", "excess", "excess2"):
            result = cluster_blind(people, loosened, weights)
            print(f"distance x {factor:.2f}, cosine {loosened:.4f}, {weights:8}: {_shown(result)}")


def _shown(result: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" if value % 1 else f"{name} {value:.0f}" for name, value in result.items())


if __name__ == "__main__":
    sys.exit(main())
