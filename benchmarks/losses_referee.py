"""Compare losses with pytorch-metric-learning's: values, and the gradients of embeddings and centers, in float64.

    python -m venv /tmp/referee && /tmp/referee/bin/pip install --no-deps pytorch-metric-learning
    PYTHONPATH=/tmp/referee/lib/python3.11/site-packages python benchmarks/losses_referee.py

It is installed apart because it would bring another torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recognition.cli import make_parser, run_command
from recognition.distributed.world import World
from recognition.heads.margins import ArcFace, ASoftmax, CosFace, LSoftmax, Margin, NoMargin
from recognition.heads.sharded_softmax import ShardedSoftmax

CLASSES, DIM, ROWS, SCALE = 40, 16, 64, 30.0
UNANNEALED: dict[str, Any] = {"base": 0.0, "lambda_min": 0.0}


def pairs() -> dict[str, tuple[Margin, Any]]:
    """Return each loss here with its counterpart there."""
    from pytorch_metric_learning import losses  # type: ignore[import-not-found]

    size = {"num_classes": CLASSES, "embedding_size": DIM}
    found: dict[str, tuple[Margin, Any]] = {
        "ArcFaceLoss": (ArcFace(0.5, "exact"), losses.ArcFaceLoss(margin=math.degrees(0.5), scale=SCALE, **size)),
        "CosFaceLoss": (CosFace(0.35), losses.CosFaceLoss(margin=0.35, scale=SCALE, **size)),
        "NormalizedSoftmaxLoss": (NoMargin(), losses.NormalizedSoftmaxLoss(temperature=1 / SCALE, **size)),
    }
    for m in (2, 3, 4):
        found[f"LargeMarginSoftmaxLoss, m = {m}"] = (
            LSoftmax(m=m, **UNANNEALED),
            losses.LargeMarginSoftmaxLoss(margin=m, scale=1, **size),
        )
    found["SphereFaceLoss, m = 4"] = (ASoftmax(**UNANNEALED), losses.SphereFaceLoss(margin=4, scale=1, **size))
    return found


def rows_of(centers: Tensor, labels: Tensor) -> Tensor:
    """Return embeddings at own angles from 0.1 to 3, of lengths from 0.5 to 5."""
    own = torch.nn.functional.normalize(centers[labels])
    other = torch.randn(ROWS, DIM, dtype=torch.float64)
    other = torch.nn.functional.normalize(other - (other * own).sum(1, keepdim=True) * own)
    angle = torch.linspace(0.1, 3.0, ROWS, dtype=torch.float64).unsqueeze(1)
    length = torch.rand(ROWS, 1, dtype=torch.float64) * 4.5 + 0.5
    return (angle.cos() * own + angle.sin() * other) * length


def compare(margin: Margin, theirs: Any) -> dict[str, float]:
    """Return the relative differences of loss and gradients."""
    torch.manual_seed(0)
    theirs = theirs.double()
    centers = theirs.W.detach().T.contiguous() * 3
    theirs.W.data = centers.T.clone()
    world = World(0, 1, 0, torch.device("cpu"))
    made = {"margin": margin, "scale": SCALE, "world": world, "update": "autograd", "dtype": torch.float64}
    head = ShardedSoftmax(CLASSES, DIM, **made)  # type: ignore[arg-type]
    head.set_centers(0, centers)
    labels = torch.arange(ROWS) % CLASSES
    rows = rows_of(centers, labels)
    leaves = [rows.clone().requires_grad_() for _ in range(2)]
    losses = head(leaves[0], labels), theirs(leaves[1], labels)
    for loss in losses:
        loss.backward()
    found = {"loss": tuple(losses), "embeddings": (leaves[0].grad, leaves[1].grad)}
    found["centers"] = (head.centers.grad, theirs.W.grad.T)
    return {name: ((a - b).abs().max() / b.abs().max()).item() for name, (a, b) in found.items()}


def run(args: Any) -> None:
    """Print a table."""
    print("| pytorch-metric-learning | loss | d embeddings | d centers |")
    print("|---|---:|---:|---:|")
    for name, pair in pairs().items():
        print(f"| {name} | " + " | ".join(f"{value:.0e}" for value in compare(*pair).values()) + " |")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command(make_parser("losses_referee", __doc__), run, argv)


if __name__ == "__main__":
    sys.exit(main())
