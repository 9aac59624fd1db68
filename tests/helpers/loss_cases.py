"""Heads of every loss of the registry, and the batches on which they are compared with their equations."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from recognition.distributed.world import World
from recognition.heads.by_class import ByClass
from recognition.heads.margins import MARGINS
from recognition.heads.sharded_softmax import ShardedSoftmax
from tests.helpers.loss_oracle import Loss

DIM, ROWS, STEPS = 16, 12, 3
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


@dataclass(frozen=True)
class LossCase:
    """One loss with its settings on one head."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    scale: float = 16.0
    dtype: torch.dtype = torch.float64
    changes: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the head."""
    kind: Literal["sgd", "adamw"] = "sgd"
    by_class: bool = False
    """Whether the head knows the images of each class, and weighs classes."""

    @property
    def label(self) -> str:
        """A name for a report."""
        more = {**self.settings, **self.changes, **({"by_class": True} if self.by_class else {})}
        words = [self.name, *(f"{key}={value}" for key, value in more.items())]
        words += ["float32"] if self.dtype == torch.float32 else []
        return "-".join(words + ["adamw"] if self.kind == "adamw" else words)

    @property
    def num_classes(self) -> int:
        return 61 if "sample_rate" in self.changes and "sampling_correction" not in self.changes else 23

    @property
    def sizes(self) -> Tensor:
        return torch.arange(self.num_classes) % 7 + 1

    @property
    def weights(self) -> Tensor | None:
        return 1 + torch.arange(self.num_classes).double() % 3 if self.by_class else None

    @property
    def loss(self) -> Loss:
        return Loss(
            self.name,
            self.settings,
            self.scale,
            self.num_classes,
            self.changes.get("label_smoothing", 0.0),
            self.changes.get("interclass_filtering_threshold", 0.0),
            self.changes.get("sub_centers", 1),
            self.changes.get("sample_rate", 1.0),
            self.sizes,
            self.weights,
        )

    def head(self, world: World) -> ShardedSoftmax:
        head = ShardedSoftmax(
            self.num_classes,
            DIM,
            margin=MARGINS[self.name](**self.settings),
            scale=self.scale,
            world=world,
            seed=11,
            dtype=self.dtype,
            block_size=5,
            by_class=ByClass(self.sizes, self.weights),
            **self.changes,
        )
        head.set_centers(0, self.centers())
        return head

    def centers(self) -> Tensor:
        columns = DIM + (self.name == "softmax" and self.settings.get("bias", True))
        rows = self.num_classes * self.changes.get("sub_centers", 1)
        return torch.randn(rows, columns, generator=self._generator(0), dtype=self.dtype) * 0.3

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """One batch a step: own angles over (0, pi), others at random, lengths from 0.5 to 150, or to 6 if raw."""
        return [self._batch(number) for number in range(STEPS)]

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        generator = self._generator(number + 1)
        labels = torch.randint(0, self.num_classes, (ROWS,), generator=generator)
        own = torch.nn.functional.normalize(self.centers().double()[labels * self.changes.get("sub_centers", 1), :DIM])
        other = torch.randn(ROWS, DIM, generator=generator, dtype=torch.float64)
        other = torch.nn.functional.normalize(other - (other * own).sum(1, keepdim=True) * own)
        angle = torch.linspace(0.1, math.pi - 0.12, ROWS, dtype=torch.float64) + 0.01 * number
        rows = angle.cos().unsqueeze(1) * own + angle.sin().unsqueeze(1) * other
        longest = 6.0 if MARGINS[self.name].rows != "unit" else 150.0
        lengths = torch.rand(ROWS, 1, generator=generator, dtype=torch.float64) * longest + 0.5
        return (rows * lengths).to(self.dtype), labels

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(self.name.encode()) + number)


VARIANTS: list[tuple[str, dict[str, Any], float]] = [
    ("adacos", {}, 16.0),
    ("adacos", {"scale": "last_step"}, 16.0),
    ("adacos", {"scale": "this_step"}, 16.0),
    ("adaface", {}, 16.0),
    ("arcface", {}, 16.0),
    ("arcface", {"gradient": "exact"}, 16.0),
    ("arcface", {"easy_margin": True, "gradient": "exact"}, 16.0),
    ("asoftmax", {}, 16.0),
    ("asoftmax", {"m": 3, "base": 1.0, "lambda_min": 0.1}, 16.0),
    ("circle", {}, 64.0),
    ("circle", {"gradient": "exact"}, 96.0),
    ("combined", {}, 16.0),
    ("cosface", {}, 16.0),
    ("curricularface", {"alpha": 0.5}, 16.0),
    ("elasticface", {"std": 0.1}, 16.0),
    ("elasticface", {"kind": "cos", "m": 0.35, "std": 0.1, "plus": True}, 16.0),
    ("ldam", {}, 16.0),
    ("lsoftmax", {"gamma": 0.5, "power": 2.0}, 16.0),
    ("lsoftmax", {"m": 4, "base": 0.2, "gamma": 0.5, "power": 2.0}, 16.0),
    ("magface", {}, 16.0),
    ("magface", {"easy_margin": False}, 16.0),
    ("mvsoftmax", {}, 16.0),
    ("mvsoftmax", {"kind": "arc", "m": 0.5, "weight": "fixed"}, 60.0),
    ("none", {}, 16.0),
    ("softmax", {}, 16.0),
    ("softmax", {"bias": False}, 16.0),
    ("sphereface", {"continuation": "psi", "m": 3.0}, 16.0),
    ("sphereface", {"continuation": "psi", "m": 2.5, "gradient": "exact"}, 16.0),
    ("spherefacer", {}, 16.0),
    ("spherefacer", {"gradient": "exact"}, 16.0),
    ("spherefacer", {"version": "v2"}, 16.0),
    ("spherefacer", {"version": "v2", "gradient": "exact"}, 16.0),
    ("sphereface2", {}, 16.0),
    ("sphereface2", {"t": 2.5, "gradient": "exact", "balance": 0.5}, 16.0),
    ("uniface", {}, 16.0),
    ("uniface", {"balance": 0.3}, 16.0),
]
"""Loss, settings and scale: published and exact gradients, bounded and with a running maximum."""

_FIRST: dict[str, tuple[str, dict[str, Any], float]] = {}
for _variant in VARIANTS:
    _FIRST.setdefault(_variant[0], _variant)
_HAS_SOFTMAX = [each for each in _FIRST.values() if MARGINS[each[0]].sums == "softmax"]
_UNIT = [each for each in _FIRST.values() if MARGINS[each[0]].rows == "unit"]

CASES = [
    *(LossCase(*each) for each in VARIANTS),
    *(LossCase(*each, dtype=torch.float32) for each in VARIANTS),
    *(LossCase(*each, changes={"sample_rate": 0.3}) for each in _FIRST.values()),
    *(LossCase("adacos", {"scale": kind}, changes={"sample_rate": 0.3}) for kind in ("last_step", "this_step")),
    *(LossCase(*each, kind="adamw") for each in _FIRST.values()),
    *(LossCase(*each, changes={"update": "autograd"}) for each in _FIRST.values()),
    *(LossCase(*each, changes={"label_smoothing": 0.1}) for each in _HAS_SOFTMAX),
    *(LossCase(*each, changes={"sub_centers": 2}) for each in _UNIT),
    *(LossCase(*each, changes={"interclass_filtering_threshold": 0.3}) for each in _UNIT),
    LossCase("arcface", changes={"label_smoothing": 0.1, "interclass_filtering_threshold": 0.2}),
    LossCase("arcface", changes={"label_smoothing": 0.1, "sub_centers": 2}),
    LossCase("arcface", changes={"label_smoothing": 0.1, "sample_rate": 0.3}),
    LossCase("arcface", scale=100.0, changes={"label_smoothing": 0.1}),
    LossCase("arcface", changes={"label_smoothing": 0.1}, dtype=torch.float32),
    *(LossCase(name, by_class=True) for name in ("arcface", "magface", "softmax", "sphereface2")),
]
