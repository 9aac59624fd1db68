"""Measure clustering: against dlib's own function, and on a set that needs an approximate index.

    python benchmarks/clustering.py --json results.json
    python benchmarks/clustering.py --dlib-images 0 --images 1000000 --identities 50000 --threads 2
    python benchmarks/clustering.py --dlib-images 0 --images 0 --exact-images 40000

First the same embeddings go to dlib.chinese_whispers_clustering (every pair in a Python list, one thread) and to this
project's pairs and whispers at the matching cosine; the partitions must be equal. Then a larger set goes through a
faiss index, whispers and the scores. With --exact-images every pair of a set is compared, three times. Embeddings are
synthetic: identities around a common spectrum, so that strangers agree as little as a trained network's do, and images
that keep between 0.5 and 0.95 of their identity's direction.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import numpy as np
import torch

from recognition.cli import make_parser, non_negative_int, positive_int, run_command
from recognition.clustering.approximate import STORAGES, approximate_neighbors, import_faiss
from recognition.clustering.graph import pairs_above
from recognition.clustering.scores import bcubed, pairwise
from recognition.clustering.unit_rows import blocks
from recognition.clustering.weights import weigh_edges
from recognition.clustering.whispers import chinese_whispers
from recognition.console import Stopwatch
from recognition.detection.dlib_detector import import_dlib
from recognition.errors import ConfigError
from recognition.work.system import peak_resident_bytes

DIMENSION = 512
SPECTRUM = (1 + np.arange(DIMENSION) / 64) ** -0.5  # of the identities: strangers' cosines spread by 0.054
ROWS = 16384


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("clustering", __doc__)
    add = parser.add_argument
    add("--dlib-images", type=non_negative_int, default=20_000, help="for dlib's function; 0: none (default 20000)")
    add("--dlib-distance", type=float, default=1.1, help="dlib's threshold (default 1.1: a cosine of 0.395)")
    add("--images", type=non_negative_int, default=100_000, help="for the index; 0: none (default 100000)")
    add("--exact-images", type=non_negative_int, default=0, help="of which every pair is compared (default 0: none)")
    add("--identities", type=positive_int, default=5000, help="of these images (default 5000)")
    add("--within", type=float, default=0.64, help="mean cosine of two images of a person (default 0.64)")
    add("--threshold", type=float, default=0.35, help="least cosine of an edge (default 0.35)")
    add("--neighbors", type=positive_int, default=20, help="of each image (default 20)")
    add("--probes", type=positive_int, default=8, help="groups of the index searched (default 8)")
    add("--storage", choices=STORAGES, default="float16", help="numbers of the index (default float16)")
    add("--memory", type=positive_int, default=4096, metavar="MIB", help="of graph and index (default 4096)")
    add("--threads", type=positive_int, default=1, help="default 1, as many as dlib's function uses")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="write the measurements here")
    return run_command(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"threads": args.threads}
    with tempfile.TemporaryDirectory() as scratch:
        if args.dlib_images:
            result["dlib"] = against_dlib(Path(scratch) / "small.npy", args)
        if args.images:
            result["index"] = large_set(Path(scratch) / "large.npy", args)
        if args.exact_images:
            result["exact"] = exact_set(Path(scratch) / "exact.npy", args)
    for part in ("dlib", "index", "exact"):
        for name, value in result.get(part, {}).items():
            sys.stdout.write(f"{part:5}  {name:22} {value}\n")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def make_embeddings(path: Path, num_images: int, num_identities: int, args: argparse.Namespace) -> np.ndarray:
    """Write unit rows [num_images, 512] to `path`; return the identity of each. Identities differ in size."""
    rng = np.random.default_rng(args.seed)
    centers = (rng.standard_normal((num_identities, DIMENSION), np.float32) * SPECTRUM).astype(np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    sizes = rng.gamma(2.0, size=num_identities)
    truth = rng.choice(num_identities, num_images, p=sizes / sizes.sum())
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (num_images, DIMENSION))
    for rows in blocks(num_images, ROWS):
        chosen = slice(rows.start, rows.stop)
        kept = np.clip(rng.normal(args.within**0.5, 0.08, (len(rows), 1)), 0.5, 0.95).astype(np.float32)
        noise = rng.standard_normal((len(rows), DIMENSION), np.float32)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        images = kept * centers[truth[chosen]] + np.sqrt(1 - kept**2) * noise
        vectors[chosen] = images / np.linalg.norm(images, axis=1, keepdims=True)
    vectors.flush()
    return truth


def against_dlib(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Time dlib's function and this project's on the same embeddings; ConfigError when the partitions differ."""
    dlib = import_dlib()
    make_embeddings(path, args.dlib_images, max(1, args.dlib_images // 20), args)
    vectors = np.load(path)
    threshold = 1 - args.dlib_distance**2 / 2
    # Compiled before it is timed, as dlib is.
    chinese_whispers(pairs_above(vectors[:100], 0.9), weighted=False, self_weight=1)
    watch = Stopwatch()
    graph = pairs_above(vectors, threshold, memory_bytes=args.memory << 20)
    graph_s = watch.seconds
    found = chinese_whispers(graph, weighted=False, self_weight=1)
    ours_s = watch.seconds
    descriptors = [dlib.vector(row) for row in vectors.astype(np.float64)]
    watch = Stopwatch()
    expected = dlib.chinese_whispers_clustering(descriptors, args.dlib_distance)
    dlib_s = watch.seconds
    if not np.array_equal(found, np.array(expected)):
        raise ConfigError("the partitions of dlib and of this project differ; expected equal ones; report this")
    return {
        "images": args.dlib_images,
        "edges": graph.num_edges,
        "clusters": int(found.max()) + 1,
        "pairs_s": round(graph_s, 3),
        "whispers_s": round(ours_s - graph_s, 3),
        "dlib_s": round(dlib_s, 2),
        "times_faster": round(dlib_s / ours_s, 1),
    }


def large_set(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Cluster a set by an approximate index; return times, recall, memory and scores."""
    import_faiss().omp_set_num_threads(args.threads)
    truth = make_embeddings(path, args.images, args.identities, args)
    vectors = np.load(path, mmap_mode="r")
    watch = Stopwatch()
    found = approximate_neighbors(
        vectors,
        args.neighbors,
        threshold=args.threshold,
        num_probes=args.probes,
        storage=args.storage,
        memory_bytes=args.memory << 20,
        progress=not args.quiet,
    )
    graph_s = watch.seconds
    clusters = chinese_whispers(weigh_edges(found.graph, args.threshold, "excess"))
    total_s = watch.seconds
    return {
        "images": args.images,
        "identities": len(np.unique(truth)),
        **spread(vectors, truth, args.seed),
        "edges": found.graph.num_edges,
        "graph_recall": round(found.recall, 5),
        "clusters": int(clusters.max()) + 1,
        "pairwise": {name: round(value, 5) for name, value in pairwise(clusters, truth)._asdict().items()},
        "bcubed": {name: round(value, 5) for name, value in bcubed(clusters, truth)._asdict().items()},
        "graph_s": round(graph_s, 1),
        "whispers_s": round(total_s - graph_s, 1),
        "total_s": round(total_s, 1),
        "peak_gib": round(peak_resident_bytes() / 2**30, 2),
    }


def exact_set(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare every pair; return the least processor seconds of three times."""
    make_embeddings(path, args.exact_images, args.identities, args)
    vectors = np.load(path, mmap_mode="r")
    seconds = []
    for _ in range(3):
        started = time.process_time()
        graph = pairs_above(vectors, args.threshold, memory_bytes=args.memory << 20)
        seconds.append(time.process_time() - started)
    return {"images": args.exact_images, "edges": graph.num_edges, "processor_s": round(min(seconds), 2)}


def spread(vectors: np.ndarray, truth: np.ndarray, seed: int) -> dict[str, float]:
    """Return the mean and the 1st percentile of cosines within identities, and the spread between them."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(truth), 20_000)
    by_identity = np.argsort(truth, kind="stable")
    place = np.empty(len(truth), np.int64)
    place[by_identity] = np.arange(len(truth))
    second = by_identity[(place[first] + 1) % len(truth)]
    within = truth[first] == truth[second]
    others = rng.integers(0, len(truth), len(first))
    cosines = np.einsum("nd,nd->n", vectors[first], vectors[second])[within]
    between = np.einsum("nd,nd->n", vectors[first], vectors[others])[truth[first] != truth[others]]
    return {
        "within_mean": round(float(cosines.mean()), 3),
        "within_1st_percentile": round(float(np.percentile(cosines, 1)), 3),
        "between_std": round(float(between.std()), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
