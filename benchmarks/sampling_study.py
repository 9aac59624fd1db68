"""Compare what becomes of the classes outside a sample: frozen, coast, coast with logQ, and no sampling, by accuracy.

    python benchmarks/sampling_study.py --output work_dirs/sampling_study        # about 12 minutes of one idle core
    python benchmarks/sampling_study.py --rates 0.1 --seeds 0 --samples 20000

Rendered people train the network `tiny` at 56 px with CosFace 0.1; other rendered people are the judges. Each run's
figures are appended to OUTPUT/runs.jsonl when it ends, and a run found there is not taken again, so a stopped study
goes on. A run's length is a number of images, since seconds depend on the machine; its processor time is reported.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recognition import CosFace, ShardedSoftmax, build_backbone
from recognition.cli import make_parser, positive_int, run_command
from recognition.console import progress
from recognition.images.codec import decode_rgb
from recognition.rendering.face_person import make_person
from recognition.rendering.face_renderer import render
from recognition.verification.metrics import fold_accuracy, pair_distances, roc_auc, tar_at_far

PX, DIM, BATCH, PEAK_LR, WARMUP = 56, 128, 64, 0.1, 100
MARGIN, SCALE = 0.1, 16.0
"""Small, as short runs want them: with ArcFace 0.3 at scale 32 two seeds were at 0.76 and 0.65 after 60,000 images."""
STRANGERS, SHOTS, FIRST_STRANGER, NUM_PAIRS = 200, 8, 100_000, 6000
RULES: dict[str, dict[str, Any]] = {
    "frozen": {"unsampled": "frozen"},
    "coast": {"unsampled": "coast"},
    "coast + logQ": {"unsampled": "coast", "sampling_correction": "logq"},
}


@dataclass(frozen=True)
class Run:
    """One training: a rule at a rate, or all classes (rate 1)."""

    rule: str
    rate: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What the network of a run says of 6,000 pairs of strangers, half of them of one person."""

    run: Run
    accuracy: float
    auc: float
    tar: float  # at FAR 0.01
    loss: float  # the mean over the last tenth of the steps
    cpu_s: float


def faces(people: range, shots: int, store: Path, *, quiet: bool) -> Tensor:
    """Return uint8 [people * shots, 56, 56, 3], rendered once and kept in `store`."""
    if not store.exists():
        pictures = np.empty((len(people) * shots, PX, PX, 3), np.uint8)
        for place, number in enumerate(progress(people, total=len(people), unit="person", label="render", quiet=quiet)):
            person = make_person(1, number)
            for shot in range(shots):
                encoded, _ = render(person, np.random.default_rng((1, number, shot + 1)), PX)
                pictures[place * shots + shot] = decode_rgb(encoded, place=f"person {number}")
        np.save(store.with_name("part.npy"), pictures)
        store.with_name("part.npy").rename(store)
    return torch.from_numpy(np.load(store))


def to_input(pictures: Tensor) -> Tensor:
    """Return network input in [-1, 1] of pictures [B, 56, 56, 3]."""
    return pictures.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def train(run: Run, pictures: Tensor, shots: int, num_samples: int) -> tuple[nn.Module, float]:
    """Return the trained network and the mean loss of the last tenth of its steps."""
    torch.manual_seed(run.seed)
    num_classes, num_steps = len(pictures) // shots, num_samples // BATCH
    backbone = build_backbone("tiny", embedding_size=DIM, image_size=PX)
    rule = RULES[run.rule] if run.rate < 1 else {}
    head = ShardedSoftmax(
        num_classes, DIM, margin=CosFace(MARGIN), scale=SCALE, seed=run.seed, sample_rate=run.rate, **rule
    )
    settings: dict[str, Any] = {"momentum": 0.9, "weight_decay": 5e-4}
    optimizer = head.optimizer(
        lr=PEAK_LR, **settings, backbone=torch.optim.SGD(backbone.parameters(), lr=PEAK_LR, **settings)
    )
    losses = []
    for step, chosen in zip(range(num_steps), batches(len(pictures), run.seed)):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * min((step + 1) / WARMUP, (1 - step / num_steps) ** 2)
        images = to_input(pictures[chosen])
        images = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, images, images.flip(3))
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = backbone(images)
        loss = head(embeddings.float(), chosen // shots)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    return backbone, statistics.mean(losses[-max(1, num_steps // 10) :])


def batches(num_pictures: int, seed: int) -> Iterator[Tensor]:
    """Yield the pictures of each step, epoch after epoch in another order; equal for all rules of a seed."""
    generator = torch.Generator().manual_seed(1000 + seed)
    while True:
        order = torch.randperm(num_pictures, generator=generator)
        yield from order[: num_pictures // BATCH * BATCH].view(-1, BATCH)


@torch.no_grad()
def judge(backbone: nn.Module, strangers: Tensor) -> tuple[float, float, float]:
    """Return 10-fold accuracy, AUC, and TAR at FAR 0.01 of the sums with the mirror image."""
    backbone.eval()
    parts = [to_input(part) for part in strangers.split(256)]
    embedded = torch.cat([backbone(part) + backbone(part.flip(3)) for part in parts]).numpy()
    first, second, is_same = pairs()
    both = np.empty((2 * len(first), embedded.shape[1]), np.float32)
    both[0::2], both[1::2] = embedded[first], embedded[second]
    distances = pair_distances(both)
    return (
        fold_accuracy(distances, is_same).mean,
        roc_auc(-distances, is_same),
        tar_at_far(-distances, is_same, 0.01).tar,
    )


def pairs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of pictures, of one person and of two by turns: equal in every run."""
    generator = np.random.default_rng(7)
    person, other = generator.integers(STRANGERS, size=NUM_PAIRS), generator.integers(STRANGERS - 1, size=NUM_PAIRS)
    shot, shift = generator.integers(SHOTS, size=NUM_PAIRS), generator.integers(1, SHOTS, size=NUM_PAIRS)
    is_same = np.arange(NUM_PAIRS) % 2 == 0
    second_person = np.where(is_same, person, (person + 1 + other) % STRANGERS)
    return person * SHOTS + shot, second_person * SHOTS + (shot + shift) % SHOTS, is_same


def table(outcomes: Sequence[Outcome], untrained: tuple[float, float, float]) -> str:
    """Return the study as Markdown: each seed's accuracy, means over the seeds, and the mean's standard error."""
    lines = [
        "| rate | unsampled rows | accuracy of each seed | mean | std error | AUC | TAR at FAR 0.01 | loss | CPU s |",
        "|---:|---|---|---:|---:|---:|---:|---:|---:|",
        f"| | untrained | | {untrained[0]:.4f} | | {untrained[1]:.4f} | {untrained[2]:.4f} | | |",
    ]
    for rate, rule in dict.fromkeys((each.run.rate, each.run.rule) for each in outcomes):
        mine = [each for each in outcomes if (each.run.rate, each.run.rule) == (rate, rule)]
        accuracies = [each.accuracy for each in mine]
        error = statistics.stdev(accuracies) / math.sqrt(len(mine)) if len(mine) > 1 else math.nan
        means = [statistics.mean(getattr(each, name) for each in mine) for name in ("auc", "tar", "loss", "cpu_s")]
        lines.append(
            f"| {rate:g} | {rule} | {' '.join(f'{value:.4f}' for value in accuracies)} "
            f"| {statistics.mean(accuracies):.4f} | {error:.4f} "
            f"| {means[0]:.4f} | {means[1]:.4f} | {means[2]:.2f} | {means[3]:.0f} |"
        )
    return "\n".join(lines)


def plan(args: argparse.Namespace) -> list[Run]:
    """Return the runs, seed by seed, so that a study that is stopped has whole rows."""
    sampled = [(rule, rate) for rate in args.rates for rule in RULES]
    return [Run(rule, rate, seed) for seed in args.seeds for rule, rate in [("all classes", 1.0), *sampled]]


def run_study(args: argparse.Namespace) -> None:
    """Take the runs that are missing, and print the table of all."""
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    kept = args.output / "runs.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    done = {Run(**row["run"]): Outcome(**{**row, "run": Run(**row["run"])}) for row in map(json.loads, lines)}
    people = faces(range(args.people), args.images, args.output / "people.npy", quiet=args.quiet)
    strangers = faces(
        range(FIRST_STRANGER, FIRST_STRANGER + STRANGERS), SHOTS, args.output / "strangers.npy", quiet=args.quiet
    )
    runs = plan(args)
    for run in runs:
        if run in done:
            continue
        start = time.process_time()
        backbone, loss = train(run, people, args.images, args.samples)
        done[run] = Outcome(run, *judge(backbone, strangers), loss, time.process_time() - start)
        with kept.open("a") as file:
            file.write(json.dumps(asdict(done[run])) + "\n")
        print(f"{run}: accuracy {done[run].accuracy:.4f}, {done[run].cpu_s:.0f} s", file=sys.stderr, flush=True)
    torch.manual_seed(0)
    untrained = judge(build_backbone("tiny", embedding_size=DIM, image_size=PX), strangers)
    print(table([done[run] for run in runs], untrained))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = make_parser("sampling_study", __doc__)
    parser.add_argument("--output", type=Path, default=Path("work_dirs/sampling_study"), help="[%(default)s]")
    parser.add_argument("--people", type=positive_int, default=5000)
    parser.add_argument("--images", type=positive_int, default=6, help="of each")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=positive_int, default=40_000, help="images that a run trains on")
    return run_command(parser, run_study, argv)


if __name__ == "__main__":
    sys.exit(main())
