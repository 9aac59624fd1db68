"""Measure clustering against what a user would write: NumPy's blocked product and dlib.chinese_whispers on its edges.

    python benchmarks/clustering_baseline.py --images 300 3000 20000

Each side is a process of its own on one thread, and its processor time is counted whole: starting Python, importing,
compiling, computing. The least of --runs is shown; the number of edges and clusters must agree.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import numpy as np

from recognition.cli import make_parser, positive_int, run_command
from recognition.errors import ConfigError

DIMENSION = 512
BASELINE = """
import sys, numpy as np, dlib
rows, threshold, edges = np.load(sys.argv[1]), float(sys.argv[2]), []
for start in range(0, len(rows), 1024):
    cosines = rows[start : start + 1024] @ rows.T
    first, second = np.nonzero(cosines > threshold)
    kept = first + start < second
    first, second = first[kept], second[kept]
    edges += list(zip((first + start).tolist(), second.tolist(), cosines[first, second].tolist()))
print(len(edges), max(dlib.chinese_whispers(edges)) + 1)
"""
OURS = """
import sys, numpy as np
from recognition.clustering.graph import pairs_above
from recognition.clustering.whispers import chinese_whispers
graph = pairs_above(np.load(sys.argv[1]), float(sys.argv[2]))
print(graph.num_edges, chinese_whispers(graph).max() + 1)
"""
WITHOUT_NUMBA = "import sys; sys.modules['numba'] = None\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("clustering_baseline", __doc__)
    add = parser.add_argument
    add("--images", type=positive_int, nargs="+", default=[300, 3000, 20_000])
    add("--threshold", type=float, default=0.395, help="least cosine of an edge (default 0.395: dlib's distance 1.1)")
    add("--runs", type=positive_int, default=3, help="of each side; the least counts (default 3)")
    return run_command(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for number in args.images:
            path = Path(scratch) / f"{number}.npy"
            np.save(path, made_up_faces(number))
            sides = {"baseline": BASELINE, "ours": OURS, "ours, no numba": WITHOUT_NUMBA + OURS}
            found = {
                name: min(measure(code, path, args.threshold) for _ in range(args.runs)) for name, code in sides.items()
            }
            if len({answer for _, answer in found.values()}) > 1:
                raise ConfigError(
                    f"{number} faces: edges and clusters differ: {found}; expected equal ones; report this"
                )
            times = ", ".join(f"{name} {seconds:.2f} s" for name, (seconds, _) in found.items())
            ratio = found["ours, no numba"][0] / found["baseline"][0]
            sys.stdout.write(f"{number:,} faces, {found['ours'][1]} edges and clusters: {times}; {ratio:.2f} x\n")


def made_up_faces(number: int) -> np.ndarray:
    """Return unit rows [number, 512] of people with 20 pictures each, a cosine of about 0.64 between two of them."""
    rng = np.random.default_rng(0)
    spectrum = (1 + np.arange(DIMENSION) / 64) ** -0.5
    centers = rng.standard_normal((max(1, number // 20), DIMENSION)) * spectrum
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    noise = rng.standard_normal((number, DIMENSION))
    noise *= 0.75 / np.linalg.norm(noise, axis=1, keepdims=True)
    rows = centers[rng.integers(0, len(centers), number)] + noise
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def measure(code: str, path: Path, threshold: float) -> tuple[float, str]:
    """Return the processor seconds of a process, and what it printed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(threshold)],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        cwd=sys.path[0],
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
