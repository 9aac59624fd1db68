"""Whole trainings of a few steps, small enough to run as every rank of a test world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recognition.config.loader import load_config
from recognition.distributed.world import World
from recognition.feed.datasets import open_dataset
from recognition.feed.loader import BatchLoader
from recognition.plan import make_plan
from recognition.training.build import build_parts
from recognition.training.start import find_start
from recognition.training.teacher import open_teacher
from recognition.training.trainer import Trainer

SMALL = [
    "device=cpu",
    "data.rec=synthetic",
    "data.num_classes=11",
    "data.num_image=132",
    "data.num_workers=0",
    "data.image_size=32",
    "backbone.network=tiny",
    "backbone.embedding_size=16",
    "train.precision=off",
    "train.num_epoch=2",
    "optim.lr=0.02",
    "head.scale=16",
    "log.tensorboard=false",
    "log.every_steps=1",
]


def with_overrides(settings: Sequence[str], *overrides: str) -> list[str]:
    """Return `settings` with those of `overrides` in the place of their own."""
    merged = dict(setting.split("=", 1) for setting in [*settings, *overrides])
    return [f"{key}={value}" for key, value in merged.items()]


def make_trainer(world: World, folder: str, overrides: list[str], validators: Any = None) -> Trainer:
    """Build the trainer of a small synthetic run."""
    config = load_config("configs/base.yaml", with_overrides(SMALL, *overrides))
    config, start = find_start(Path(folder), config, world) if config.resume else (config, None)
    dataset = open_dataset(config.data, needs_identities=config.head.weight > 0)
    teacher = open_teacher(config, dataset, world, Path(folder), quiet=True)
    parts = build_parts(config, dataset.num_classes, world, teacher)
    loader = BatchLoader(
        dataset,
        seed=config.seed,
        batch_size=config.train.batch_size,
        world=world,
        num_workers=0,
        device=world.device,
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    plan = make_plan(config, world_size=world.size, num_images=len(dataset), num_classes=dataset.num_classes)
    return Trainer(plan, parts, loader, world=world, folder=Path(folder), validators=validators or {}, start=start)


def fit(world: World, folder: str, overrides: list[str]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train to the end and return (loss of each step, everything a checkpoint would hold on this rank)."""
    trainer = make_trainer(world, folder, overrides)
    trainer.fit()
    return losses(folder) if world.is_main else [], snapshot(trainer)


def losses(folder: str) -> list[float]:
    """Return the losses that metrics.jsonl holds, in order."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if row["kind"] == "train"]


def snapshot(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return copies of weights, buffers, optimizer state, centers and momentum of this rank."""
    tensors = {f"backbone.{k}": v for k, v in trainer.parts.backbone.state_dict().items()}
    tensors |= {f"head.{k}": v for k, v in trainer.parts.head.state_rows().items()}
    tensors |= {f"margin.{k}": v for k, v in trainer.parts.head.margin_state().items()}
    for number, state in enumerate(trainer.parts.optimizer.state.values()):
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
