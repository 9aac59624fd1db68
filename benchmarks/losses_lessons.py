"""Answer a learner's questions about losses with small measurements, and train what copied code really trains.

    python benchmarks/losses_lessons.py                      # two minutes of processor time
    python benchmarks/losses_lessons.py --seeds 1 --steps 200

People are points of 16 numbers. A picture of one is 128 numbers: a fixed random network applied to the point, moved a
little, and to as many numbers that are not about the person, times a brightness. A network of two layers learns 200
people with 2 to 30 pictures each; what counts is whether it tells 200 others apart. Losses are written here as a page
of a book would, in plain autograd on full logits: a lesson should not depend on the library it teaches.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from recognition.cli import make_parser, positive_int, run_command

PEOPLE, DIM = 200, 32
Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(embeddings [N, D], centers [C, D], labels [N], number of the step) -> the loss."""


class World:
    """Where pictures come from."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.inner = self._draw(32, 64) / 6
        self.outer = self._draw(64, 128) / 8
        self.points = self._draw(2 * PEOPLE, 16)

    def pictures(self, people: Tensor) -> Tensor:
        """Return a picture of each of `people` [N] that nobody has seen before."""
        about = self.points[people] + 0.7 * self._draw(len(people), 16)
        plain = torch.tanh(torch.cat([about, self._draw(len(people), 16)], 1) @ self.inner) @ self.outer
        return plain * torch.exp(0.3 * self._draw(len(people), 1))

    def _draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


@dataclass(frozen=True)
class Found:
    """What a training came to: on its own people, and on those that it has not seen."""

    first_loss: float
    last_loss: float
    top1: float
    own_angle: float
    auc: float

    @property
    def cells(self) -> list[str]:
        """The columns of the table."""
        losses = f"{self.first_loss:.2f} to {self.last_loss:.2f}"
        return [losses, f"{self.top1:.3f}", f"{self.own_angle:.0f}", f"{self.auc:.3f}"]


def cosines(x: Tensor, w: Tensor) -> Tensor:
    return normalize(x) @ normalize(w).T


def angles(cosine: Tensor) -> Tensor:
    return torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))


def at_own(logits: Tensor, own: Tensor, labels: Tensor) -> Tensor:
    """Return `logits` with `own` in the labels' places."""
    return torch.where(one_hot(labels, logits.shape[1]).bool(), own, logits)


def softmax_of(logits: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    return lambda x, w, y, step: cross_entropy(logits(x, w), y)


def margin(own: Callable[[Tensor], Tensor], scale: float) -> Loss:
    def loss(x: Tensor, w: Tensor, y: Tensor, step: int) -> Tensor:
        cosine = cosines(x, w)
        return cross_entropy(scale * at_own(cosine, own(angles(cosine)), y), y)

    return loss


def falling(theta: Tensor, m: int) -> Tensor:
    """psi of L-Softmax and SphereFace."""
    turns = (m * theta / math.pi).floor()
    return (1 - 2 * (turns % 2)) * torch.cos(m * theta) - 2 * turns


def multiplied(m: int, annealing: bool) -> Loss:
    def loss(x: Tensor, w: Tensor, y: Tensor, step: int) -> Tensor:
        cosine = cosines(x, w)
        share = max(5.0, 1000 / (1 + 0.12 * step)) if annealing else 0.0
        own = (share * cosine + falling(angles(cosine), m)) / (1 + share)
        return cross_entropy(x.norm(dim=1, keepdim=True) * at_own(cosine, own, y), y)

    return loss


def divided(x: Tensor, w: Tensor, y: Tensor, step: int) -> Tensor:
    """The cosine divided by s before its angle is taken, and the margin on every class."""
    return cross_entropy(16 * torch.cos(torch.acos(cosines(x, w) / 16) + 0.3), y)


def drawn_anew(x: Tensor, w: Tensor, y: Tensor, step: int) -> Tensor:
    """Centers made inside the loss, at every call."""
    return margin(lambda theta: torch.cos(theta + 0.3), 16)(x, torch.randn_like(w), y, step)


def nearest_own(x: Tensor, w: Tensor, y: Tensor, step: int) -> Tensor:
    """The margin, and the target, at whatever center is nearest."""
    nearest = cosines(x, w).argmax(1)
    return margin(lambda theta: torch.cos(theta + 0.3), 16)(x, w, nearest, step)


def plus_m(x: Tensor, w: Tensor, y: Tensor, step: int) -> Tensor:
    """cos(theta + m) where A-Softmax has cos(m theta), with its m of 4."""
    cosine = cosines(x, w)
    return cross_entropy(x.norm(dim=1, keepdim=True) * at_own(cosine, torch.cos(angles(cosine) + 4), y), y)


def without_minus(x: Tensor, w: Tensor, y: Tensor, step: int) -> Tensor:
    """log p in place of -log p."""
    return -margin(lambda theta: torch.cos(theta + 0.3), 16)(x, w, y, step)


LESSONS: dict[str, Loss] = {
    "raw rows, raw centers: e . w": softmax_of(lambda x, w: x @ w.T),
    "unit centers: e . w / |w|": softmax_of(lambda x, w: x @ normalize(w).T),
    "unit rows: e . w / |e|": softmax_of(lambda x, w: normalize(x) @ w.T),
    "both unit, no scale: c": softmax_of(cosines),
    "both unit, s = 16": softmax_of(lambda x, w: 16 * cosines(x, w)),
    "both unit, s = 64": softmax_of(lambda x, w: 64 * cosines(x, w)),
    "c - 0.2, s = 16": margin(lambda theta: torch.cos(theta) - 0.2, 16),
    "cos(theta + 0.3), s = 16": margin(lambda theta: torch.cos(theta + 0.3), 16),
    "cos(theta + 0.3), s = 64": margin(lambda theta: torch.cos(theta + 0.3), 64),
    "psi, m = 4, from the first step": multiplied(4, annealing=False),
    "psi, m = 4, annealed": multiplied(4, annealing=True),
}
MISTAKES: dict[str, Loss] = {
    "(nothing: one step of cos(theta + 0.3))": margin(lambda theta: torch.cos(theta + 0.3), 16),
    "cosine / s before acos, margin on every class": divided,
    "centers drawn anew in each call": drawn_anew,
    "the nearest center taken for one's own": nearest_own,
    "A-Softmax with + m": plus_m,
    "log without its minus": without_minus,
}


def train(loss: Loss, seed: int, steps: int) -> Found:
    """Train a network with a loss and look at it."""
    world = World(seed)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, DIM))
    centers = nn.Parameter(torch.randn(PEOPLE, DIM) * 0.1)
    counts = torch.linspace(2, 30, PEOPLE).long()
    people = torch.arange(PEOPLE).repeat_interleave(counts)
    pictures = world.pictures(people)
    optimizer = torch.optim.SGD([*network.parameters(), centers], lr=0.1, momentum=0.9, weight_decay=5e-4)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        rows = torch.randint(0, len(people), (64,), generator=world.generator)
        found = loss(network(pictures[rows]), centers, people[rows], step)
        optimizer.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        losses.append(found.item())
    with torch.no_grad():
        embeddings, others = network(pictures), torch.arange(PEOPLE, 2 * PEOPLE)
        cosine = cosines(embeddings, centers)
        top1 = (cosine.argmax(1) == people).float().mean().item()
        own_angle = angles(cosine.gather(1, people.unsqueeze(1))).mean().rad2deg().item()
        first, second = (normalize(network(world.pictures(others))) for _ in range(2))
        scores = first @ second.T
    tenth = max(1, steps // 20)
    return Found(
        statistics.mean(losses[:tenth]), statistics.mean(losses[-tenth:]), top1, own_angle, area_under_curve(scores)
    )


def area_under_curve(scores: Tensor) -> float:
    """Return how often a pair of one person (the diagonal) is nearer than one of two."""
    same = scores.diagonal()
    different = scores[~torch.eye(len(scores), dtype=torch.bool)]
    return (same.unsqueeze(1) > different).float().mean().item()


def run(args: argparse.Namespace) -> None:
    """Train everything and print both tables."""
    torch.set_num_threads(1)
    tables = {
        title: {
            name: [train(loss, seed, 1 if name.startswith("(") else args.steps) for seed in args.seeds]
            for name, loss in losses.items()
        }
        for title, losses in (("lesson", LESSONS), ("copied code", MISTAKES))
    }
    if args.json:
        plain = {title: {n: [vars(f) for f in found] for n, found in rows.items()} for title, rows in tables.items()}
        print(json.dumps(plain))
        return
    for title, rows in tables.items():
        print(f"| {title} | loss, first to last | top-1 in training | own angle | AUC, unseen people | of each seed |")
        print("|---|---|---:|---:|---:|---|")
        for name, found in rows.items():
            mean = Found(*(statistics.mean(values) for values in zip(*(vars(each).values() for each in found))))
            each = " ".join(f"{one.auc:.3f}" for one in found)
            print(f"| {name} | {' | '.join(mean.cells)} | {each} |")
        print()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = make_parser("losses_lessons", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=positive_int, default=600)
    parser.add_argument("--json", action="store_true")
    return run_command(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
