"""Problems on which the head and the oracle are compared, built alike in every process."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from recognition.distributed.world import World
from recognition.heads.margins import MARGINS, Margin, OwnRows, Shaped, State
from recognition.heads.sharded_softmax import ShardedSoftmax
from recognition.heads.state import OptimizerKind
from tests.helpers import head_oracle

EMBEDDING_SIZE = 24
GLOBAL_BATCH = 12  # divisible by 1, 2, 3 and 4 ranks
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
BETAS, EPS = (0.8, 0.9), 1e-8  # the second moment of a few steps forgets as it does over thousands


class ByClass(Margin):
    """What no margin of the library uses: a margin and a weight of each class, and a loss of the lengths."""

    wants_lengths = True

    def target(self, state: State, own: OwnRows) -> Shaped:
        assert own.length_N is not None
        ones = torch.ones_like(own.cosine_N)
        return Shaped(
            own.cosine_N - (own.label_N % 4) * 0.1,
            ones,
            weight=(1 + own.label_N % 3).double(),
            term=0.01 * own.length_N,
            term_by_length=0.01 * ones,
        )


@dataclass(frozen=True)
class Case:
    """One problem. `changes` are arguments of the head; `forwards` calls make a step, each with its weight."""

    name: str
    num_classes: int = 23
    labels: Literal["mixed", "duplicates", "first_rank"] = "mixed"
    dtype: torch.dtype = torch.float64
    num_steps: int = 2
    forwards: tuple[float, ...] = (1.0,)
    margin: str = "combined"
    settings: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    embedding_size: int = EMBEDDING_SIZE
    optimizer: OptimizerKind = "sgd"

    @property
    def problem(self) -> head_oracle.Problem:
        return head_oracle.Problem(
            self.margin,
            self.settings,
            self.changes.get("scale", 64.0),
            self.changes.get("sub_centers", 1),
            self.changes.get("interclass_filtering_threshold", 0.0),
            self.changes.get("unsampled") == "coast",
        )

    @property
    def tolerance(self) -> float:
        return 1e-10 if self.dtype == torch.float64 else 1e-5

    def head(self, world: World) -> ShardedSoftmax:
        """Return the head of this rank with the case's centers."""
        margin = ByClass() if self.margin == "by_class" else MARGINS[self.margin](**self.settings)
        head = ShardedSoftmax(
            self.num_classes, self.embedding_size, margin=margin, world=world, seed=5, dtype=self.dtype, **self.changes
        )
        head.set_centers(0, self.centers())
        return head

    def optimizer_of(self, head: ShardedSoftmax) -> torch.optim.Optimizer:
        """Return what moves the centers of `head`."""
        if head.update == "autograd":
            return torch.optim.SGD(head.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        if self.optimizer == "adamw":
            return head.optimizer(kind="adamw", lr=LR, weight_decay=WEIGHT_DECAY, betas=BETAS, eps=EPS)
        return head.optimizer(lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def centers(self) -> Tensor:
        rows = self.num_classes * self.problem.sub_centers
        return torch.randn(rows, self.embedding_size, generator=_generator(self.name, 0), dtype=self.dtype) * 0.3

    def steps(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Return the batches of each step, one per forward."""
        count = len(self.forwards)
        return [
            [self._batch(step * count + number) for number in range(count)] for step in range(self.num_steps)
        ]  # fmt: skip

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        generator = _generator(self.name, number + 1)
        labels = self._labels(generator)
        embeddings = self._embeddings(labels, generator)
        lengths = torch.rand(len(labels), 1, generator=generator, dtype=torch.float64) * 20 + 0.5
        return (embeddings * lengths).to(self.dtype), labels

    def _labels(self, generator: torch.Generator) -> Tensor:
        if self.labels == "duplicates":
            return torch.randint(0, 2, (GLOBAL_BATCH,), generator=generator) * (self.num_classes - 1)
        last = max(1, self.num_classes // 4) if self.labels == "first_rank" else self.num_classes
        return torch.randint(0, last, (GLOBAL_BATCH,), generator=generator)

    def _embeddings(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Turn each row to the angle of the wanted target probability: 0.05-0.95, or a loss of 1e-5, or any."""
        first = labels * self.problem.sub_centers
        own = torch.nn.functional.normalize(self.centers().double()[first])
        other = torch.randn(len(labels), self.embedding_size, generator=generator, dtype=torch.float64)
        other = torch.nn.functional.normalize(other - (other * own).sum(1, keepdim=True) * own)
        wanted = torch.linspace(0.05, 0.95, len(labels), dtype=torch.float64)
        wanted[-3:] = math.exp(-1e-5)
        # Not from zero: there the angle of a cosine has half the digits of the cosine, in the oracle as in the head.
        low = torch.full((len(labels),), 0.02, dtype=torch.float64)
        high = torch.full_like(low, 1.6)
        for _ in range(60):
            angle = (low + high) / 2
            is_near = self._probability(_turn(own, other, angle), labels) > wanted
            low, high = torch.where(is_near, angle, low), torch.where(is_near, high, angle)
        rows = _turn(own, other, (low + high) / 2)
        rows[-4] = other[-4]  # and one that is far from its class
        return rows

    def _probability(self, rows: Tensor, labels: Tensor) -> Tensor:
        # Without the filter, and without a margin that jumps at its hard negatives: a step of the probability draws
        # the search to rows that lie exactly there, where the last bit decides.
        problem = replace(self.problem, threshold=0.0)
        if self.margin == "curricularface":
            problem = replace(problem, margin="combined", settings={})
        return head_oracle.row_losses(rows, self.centers().double(), labels, problem)[0].neg().exp()


def _turn(own: Tensor, other: Tensor, angle: Tensor) -> Tensor:
    return angle.cos().unsqueeze(1) * own + angle.sin().unsqueeze(1) * other


def _generator(name: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()) + number)


_COMBINED = {
    "arcface": {},
    "cosface": {"m2": 0.0, "m3": 0.4},
    "sphereface": {"m1": 1.35, "m2": 0.0},
    "combined": {"m1": 0.9, "m2": 0.4, "m3": 0.15},
    "none": {"m2": 0.0},
}
_FLOAT32 = torch.float32
_LOGQ = {"sample_rate": 0.3, "sampling_correction": "logq", "block_size": 5}
_CORRECTED: dict[str, dict[str, Any]] = {
    "plain": {"changes": _LOGQ},
    "unbounded": {"changes": {**_LOGQ, "scale": 90.0}},
    "own-alone": {"changes": {**_LOGQ, "sample_rate": 0.0}},
    "filtered": {"changes": {**_LOGQ, "interclass_filtering_threshold": 0.2}},
    "sub-centers": {"changes": {**_LOGQ, "sub_centers": 2}},
    "curricularface": {"margin": "curricularface", "changes": _LOGQ},
    "accumulated": {"forwards": (0.5, 0.5), "changes": _LOGQ},
    "accumulated-unbounded": {"forwards": (0.25, 0.75), "changes": {**_LOGQ, "scale": 90.0}},
    "autograd": {"changes": {**_LOGQ, "update": "autograd", "unsampled": "coast"}},
    "coasting": {"num_steps": 4, "changes": {**_LOGQ, "unsampled": "coast"}},
    "float32": {"dtype": _FLOAT32, "changes": _LOGQ},
}
_SOME = {"sample_rate": 0.2, "unsampled": "coast", "block_size": 5}
_COASTING: dict[str, dict[str, Any]] = {
    "some": {"num_classes": 97, "changes": _SOME},
    "own-alone": {"num_classes": 41, "changes": {**_SOME, "sample_rate": 0.0}},
    "nearest": {"num_classes": 97, "changes": {**_SOME, "negatives": "nearest"}},
    "sub-centers": {"num_classes": 41, "changes": {**_SOME, "sub_centers": 2}},
    "accumulated": {"num_classes": 97, "forwards": (0.5, 0.5), "changes": _SOME},
    "curricularface": {"num_classes": 97, "margin": "curricularface", "changes": _SOME},
    "autograd": {"num_classes": 97, "changes": {**_SOME, "update": "autograd"}},
    "few": {"num_classes": 2, "labels": "duplicates", "changes": _SOME},
    "float32": {"num_classes": 97, "dtype": _FLOAT32, "changes": _SOME},
}

CASES = [
    *(Case(f"margin-{name}", settings=settings) for name, settings in _COMBINED.items()),
    *(
        Case(f"exact-{name}", settings={**_COMBINED[name], "gradient": "exact"})
        for name in ("arcface", "sphereface", "combined")
    ),
    *(Case(f"block-{size}", changes={"block_size": size}) for size in (1, 7, 23, 100)),
    Case("two-classes", num_classes=2),
    Case("three-classes", num_classes=3, labels="duplicates"),
    Case("duplicates", labels="duplicates"),
    Case("first-rank", num_classes=41, labels="first_rank"),
    Case("scale-30", changes={"scale": 30.0}),
    Case("scale-100", changes={"scale": 100.0, "block_size": 4}),
    Case("autograd", changes={"update": "autograd"}),
    Case("autograd-exact", settings={"gradient": "exact"}, changes={"update": "autograd"}),
    Case("float32", dtype=_FLOAT32),
    Case("float32-exact", dtype=_FLOAT32, settings={"gradient": "exact"}, changes={"block_size": 7}),
    Case("float32-autograd", dtype=_FLOAT32, changes={"update": "autograd"}),
    Case("float32-cosface", dtype=_FLOAT32, settings=_COMBINED["cosface"]),
    Case("float32-scale-100", dtype=_FLOAT32, changes={"scale": 100.0, "block_size": 4}),
    Case("sub-centers", changes={"sub_centers": 3, "block_size": 5}),
    Case("float32-sub-centers", dtype=_FLOAT32, changes={"sub_centers": 2}),
    Case("filtered", changes={"interclass_filtering_threshold": 0.2, "block_size": 7}),
    Case("float32-filtered", dtype=_FLOAT32, changes={"interclass_filtering_threshold": 0.2}),
    Case("filtered-scale-100", changes={"interclass_filtering_threshold": 0.2, "block_size": 7, "scale": 100.0}),
    Case("sampled", num_classes=97, changes={"sample_rate": 0.3, "block_size": 5}),
    Case("sampled-nearest", num_classes=97, changes={"sample_rate": 0.3, "negatives": "nearest", "block_size": 7}),
    Case("sampled-few", num_classes=29, labels="first_rank", changes={"sample_rate": 0.05}),
    Case("sampled-sub-centers", num_classes=41, changes={"sample_rate": 0.4, "sub_centers": 2, "block_size": 3}),
    Case("float32-sampled", num_classes=97, dtype=_FLOAT32, changes={"sample_rate": 0.3, "scale": 80.0}),
    *(Case(f"logq-{name}", num_classes=97, **case) for name, case in _CORRECTED.items()),
    *(Case(f"coast-{name}", num_steps=9, **case) for name, case in _COASTING.items()),
    Case("sub-centers-filtered", changes={"sub_centers": 2, "interclass_filtering_threshold": 0.3, "scale": 90.0}),
    Case("accumulated", forwards=(0.5, 0.25, 0.25), changes={"block_size": 7}),
    Case("accumulated-autograd", forwards=(0.5, 0.5), changes={"update": "autograd"}),
    Case("accumulated-sampled", num_classes=97, forwards=(0.5, 0.5), changes={"sample_rate": 0.3, "block_size": 7}),
    Case(
        "accumulated-sub-centers", num_classes=41, forwards=(0.5, 0.5), changes={"sample_rate": 0.4, "sub_centers": 2}
    ),
    *(
        Case(f"adamw-{name}", optimizer="adamw", num_classes=classes, num_steps=4, changes=changes)
        for name, classes, changes in (
            ("full", 23, {"block_size": 7}),
            ("scale-100", 23, {"scale": 100.0}),
            ("sub-centers", 23, {"sub_centers": 3, "block_size": 5}),
            ("filtered", 23, {"interclass_filtering_threshold": 0.2}),
            ("sampled", 97, {"sample_rate": 0.3, "block_size": 5}),
            ("sampled-sub-centers", 41, {"sample_rate": 0.4, "sub_centers": 2, "block_size": 3}),
            ("nearest", 97, {"sample_rate": 0.3, "negatives": "nearest"}),
        )
    ),
    Case("adamw-accumulated", optimizer="adamw", forwards=(0.5, 0.25, 0.25), num_steps=3),
    Case("adamw-accumulated-sampled", 97, optimizer="adamw", forwards=(0.5, 0.5), changes={"sample_rate": 0.3}),
    Case("adamw-curricularface", optimizer="adamw", margin="curricularface", num_steps=3, settings={"alpha": 0.5}),
    Case("adamw-adaface", optimizer="adamw", margin="adaface", num_steps=3),
    Case("adaface", margin="adaface", num_steps=3),
    Case(
        "adaface-length", margin="adaface", num_steps=3, settings={"length_gradient": "exact", "h": 3.0, "alpha": 0.5}
    ),
    Case("adaface-sampled", margin="adaface", num_classes=97, changes={"sample_rate": 0.3}),
    Case("adaface-autograd", margin="adaface", changes={"update": "autograd"}),
    Case("float32-adaface", margin="adaface", dtype=_FLOAT32),
    Case("by-class", margin="by_class", changes={"block_size": 7}),
    Case("by-class-scale-100", margin="by_class", changes={"scale": 100.0, "block_size": 7}),
    Case("by-class-autograd", margin="by_class", changes={"update": "autograd"}),
    Case("curricularface", margin="curricularface", num_steps=3, settings={"alpha": 0.5}, changes={"block_size": 7}),
    Case("curricularface-sampled", margin="curricularface", num_classes=97, changes={"sample_rate": 0.3}),
    Case("curricularface-bounded", margin="curricularface", settings={"alpha": 0.5}, changes={"scale": 30.0}),
    Case("curricularface-accumulated", margin="curricularface", settings={"alpha": 0.5}, forwards=(0.5, 0.5)),
    Case("curricularface-sub-centers", margin="curricularface", changes={"sub_centers": 2}),
    Case(
        "curricularface-filtered",
        margin="curricularface",
        settings={"alpha": 0.5},
        changes={"interclass_filtering_threshold": 0.3},
    ),
    Case("curricularface-autograd", margin="curricularface", changes={"update": "autograd"}),
    Case("float32-curricularface", margin="curricularface", dtype=_FLOAT32, settings={"alpha": 0.5}),
]
