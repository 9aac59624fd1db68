"""Time and memory of ROC, DET and thresholds for millions of pairs of different people.

python benchmarks/many_scores.py --negatives 10000000
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import numpy as np

from recognition.console import Stopwatch, size
from recognition.verification.charts import Axis, Series, line_chart
from recognition.verification.sorted_scores import SortedScores
from recognition.work.system import peak_resident_bytes


def main() -> int:
    """Print seconds of each part and the peak of the resident memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--negatives", type=int, default=10_000_000)
    parser.add_argument("--positives", type=int, default=100_000)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.normal(0.6, 0.15, args.positives), generator.normal(0, 0.1, args.negatives)])
    is_same = np.arange(len(scores)) < args.positives
    before, watch, parts = peak_resident_bytes(), Stopwatch(), {}
    ordered = SortedScores.of(scores, is_same)
    parts["sort"] = watch.seconds
    points = [ordered.tar_at_far(10.0**-power) for power in range(1, 8)]
    parts["thresholds"] = watch.seconds
    curve = ordered.roc()
    equal_error, _ = ordered.equal_error(curve)
    parts["curve and EER"] = watch.seconds
    far = Axis("false accept rate", 1e-7, 1.0, "log")
    roc = line_chart("ROC", [Series("made", curve.far, curve.tar, is_step=True)], far, Axis("", 0.0, 1.0))
    axes = (Axis("false accept rate", 1e-6, 0.9, "normal"), Axis("false reject rate", 1e-6, 0.9, "normal"))
    det = line_chart("DET", [Series("made", curve.far, curve.fnmr, is_step=True)], *axes)
    parts["two drawings"] = watch.seconds
    last = 0.0
    for name, seconds in parts.items():
        print(f"{name}: {seconds - last:.2f} s")
        last = seconds
    print(f"{len(scores):,} scores in {last:.2f} s; drawings of {len(roc):,} and {len(det):,} characters")
    print(f"TAR at FAR 1e-6: {points[5].tar:.4f}, AUC {ordered.auc():.6f}, EER {equal_error:.6f}")
    print(f"peak memory {size(peak_resident_bytes())}, of which {size(before)} before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
