"""Group the faces of an embedding store into people without names, by Chinese whispers on a similarity graph.

    python data_tools/cluster_faces.py embedded/ clusters.lst --threshold 0.4
    python data_tools/cluster_faces.py embedded/ clusters.jsonl --threshold 0.4 --graph approximate --neighbors 40

EMBEDDINGS is what embed_faces.py wrote. OUT.lst has a line `index TAB cluster TAB path` per image, for pack_rec.py;
OUT.jsonl a line {"key": ..., "cluster": ...}. Clusters are numbered in the order of their first image. The graph holds
every pair of images whose cosine is above --threshold, or of these only the nearest --neighbors of each image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recognition.cli import OldFlag, make_parser, non_negative_int, positive_int, run_command
from recognition.clustering.approximate import STORAGES, Storage, approximate_neighbors
from recognition.clustering.graph import DEFAULT_MEMORY, SimilarityGraph, pairs_above
from recognition.clustering.neighbors import nearest_neighbors
from recognition.clustering.scores import bcubed, pairwise
from recognition.clustering.weights import EDGE_WEIGHTS, weigh_edges
from recognition.clustering.whispers import DEFAULT_ITERATIONS, chinese_whispers
from recognition.console import Stopwatch, count, duration
from recognition.distributed.world import choose_device
from recognition.embedding.store import Embeddings, read_embeddings
from recognition.errors import ConfigError, DataError
from recognition.formats.image_tree import has_suffix
from recognition.formats.model_facts import facts_in_result
from recognition.work.files import refuse_existing, staged

DEFAULT_NEIGHBORS, DEFAULT_PROBES = 40, 16
DEFAULT_STORAGE: Storage = "float16"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, cluster the faces, and return the exit status."""
    parser = make_parser("cluster_faces", __doc__)
    add = parser.add_argument
    add("embeddings", type=Path, metavar="EMBEDDINGS", help="folder that embed_faces.py wrote")
    add("output", type=Path, metavar="OUT", help="OUT.lst or OUT.jsonl")
    add("--threshold", type=float, required=True, metavar="COS", help="least cosine of an edge; depends on the network")
    add("--graph", choices=("pairs", "nearest", "approximate"), default="pairs", help="which pairs (default: pairs)")
    add("--neighbors", type=positive_int, metavar="K", help=f"nearest of each image (default: {DEFAULT_NEIGHBORS})")
    add("--neighbours", dest="neighbors", action=OldFlag, type=positive_int)
    add("--probes", type=positive_int, metavar="N", help=f"approximate: groups searched (default: {DEFAULT_PROBES})")
    add("--storage", choices=STORAGES, help=f"approximate: numbers of the index (default: {DEFAULT_STORAGE})")
    add(
        "--weights", choices=EDGE_WEIGHTS, default="excess", help="an edge's vote (default: excess, over the threshold)"
    )
    add("--iterations", type=positive_int, default=DEFAULT_ITERATIONS, metavar="N", help="most visits per image")
    add("--seed", type=non_negative_int, default=0, help="of the order of the visits (default: 0)")
    memory = DEFAULT_MEMORY >> 20
    add("--memory", type=positive_int, default=memory, metavar="MIB", help=f"beyond the embeddings (default: {memory})")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="for the products (default: auto)")
    add("--compare", action="store_true", help="print how well the clusters agree with the identities of EMBEDDINGS")
    add("--overwrite", action="store_true", help="replace OUT")
    add("--json", action="store_true", help="print the counts as one JSON object")
    return run_command(parser, _run, argv)


def build_graph(vectors: np.ndarray, args: argparse.Namespace) -> tuple[SimilarityGraph, float | None]:
    """Return the graph the flags ask for, and the measured recall of an approximate one."""
    shared: dict[str, Any] = {
        "threshold": args.threshold,
        "memory_bytes": args.memory << 20,
        "device": choose_device(args.device),
        "progress": not args.quiet,
    }
    neighbors = args.neighbors or DEFAULT_NEIGHBORS
    if args.graph == "approximate":
        found = approximate_neighbors(
            vectors,
            neighbors,
            num_probes=args.probes or DEFAULT_PROBES,
            storage=args.storage or DEFAULT_STORAGE,
            seed=args.seed,
            **shared,
        )
        return found.graph, found.recall
    if args.graph == "nearest":
        return nearest_neighbors(vectors, neighbors, **shared), None
    return pairs_above(vectors, **shared), None


def _run(args: argparse.Namespace) -> None:
    watch = Stopwatch()
    _check(args)
    refuse_existing(args.output, overwrite=args.overwrite)
    store = read_embeddings(args.embeddings)
    lines = _lst_lines if args.output.suffix == ".lst" else _json_lines
    if lines is _lst_lines:
        _check_paths(args.embeddings, store.keys)
    graph, recall = build_graph(store.vectors, args)
    clusters = chinese_whispers(
        weigh_edges(graph, args.threshold, args.weights),
        iterations=args.iterations,
        seed=args.seed,
        progress=not args.quiet,
    )
    with (
        staged(args.output) as (temporary,),
        open(temporary, "w", encoding="utf-8", errors="surrogateescape") as handle,
    ):
        handle.writelines(lines(store.keys, clusters))
    _report(args, _counts(args, store, graph, clusters, recall), watch.seconds)


def _check(args: argparse.Namespace) -> None:
    if not -1 <= args.threshold < 1:
        raise ConfigError(f"--threshold {args.threshold}: expected a cosine in [-1, 1); choose such a number")
    if args.output.suffix not in (".lst", ".jsonl"):
        raise ConfigError(f"{args.output}: expected a name that ends in .lst or .jsonl; choose such a name")
    for flag, graphs in (
        ("neighbors", ("nearest", "approximate")),
        ("probes", ("approximate",)),
        ("storage", ("approximate",)),
    ):
        if getattr(args, flag) is not None and args.graph not in graphs:
            raise ConfigError(f"--{flag}: means nothing to --graph {args.graph}; expected {' or '.join(graphs)}")


def _check_paths(folder: Path, keys: Sequence[str]) -> None:
    """Refuse keys that a .lst cannot name: those of a packed set, and paths with a tab or a line break."""
    for key in keys:
        if not ("/" in key or has_suffix(key)) or any(character in key for character in "\t\r\n"):
            raise DataError(
                f"{folder}: key {key!r} is no path for a .lst; expected an image's; write OUT.jsonl instead"
            )


def _lst_lines(keys: Sequence[str], clusters: np.ndarray) -> Iterator[str]:
    return (f"{i}\t{cluster}\t{key}\n" for i, (key, cluster) in enumerate(zip(keys, clusters.tolist())))


def _json_lines(keys: Sequence[str], clusters: np.ndarray) -> Iterator[str]:
    return (json.dumps({"key": key, "cluster": cluster}) + "\n" for key, cluster in zip(keys, clusters.tolist()))


def _counts(
    args: argparse.Namespace, store: Embeddings, graph: SimilarityGraph, clusters: np.ndarray, recall: float | None
) -> dict[str, Any]:
    sizes = np.bincount(clusters)
    counts: dict[str, Any] = {
        "model": facts_in_result(store.about),
        "num_images": len(clusters),
        "num_edges": graph.num_edges,
        "num_clusters": len(sizes),
        "num_single": int((sizes == 1).sum()),
        "largest": int(sizes.max(initial=0)),
        "graph_recall": recall,
    }
    if args.compare:
        counts["pairwise"] = pairwise(clusters, store.labels)._asdict()
        counts["bcubed"] = bcubed(clusters, store.labels)._asdict()
    return counts


def _report(args: argparse.Namespace, counts: dict[str, Any], seconds: float) -> None:
    if args.json:
        print(json.dumps({"output": str(args.output), **counts, "seconds": round(seconds, 3)}))
        return
    if counts["graph_recall"] is not None:
        print(f"graph recall {counts['graph_recall']:.4f}: true neighbors above the threshold that the index found")
    for name in ("pairwise", "bcubed") if args.compare else ():
        print("{}: precision {precision:.4f}, recall {recall:.4f}, F {f:.4f}".format(name, **counts[name]))
    print(
        f"clustered {count(counts['num_images'], 'image')} into {count(counts['num_clusters'], 'cluster')} "
        f"({counts['num_single']:,} of one image, the largest of {counts['largest']:,}) "
        f"by {count(counts['num_edges'], 'edge')} above {args.threshold} in {duration(seconds)}"
    )
