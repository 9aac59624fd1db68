"""Train a few steps the way arcface_torch does, written from its equations, and save what its ranks save.

One process plays all ranks: with BatchNorm over the global batch, ranks differ in which centers they hold alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from recognition.backbones import build_backbone
from recognition.config.schema import Config
from recognition.distributed.shards import class_range
from recognition.feed.loader import BatchLoader
from recognition.images.augment import flip_mask
from recognition.images.preprocess import to_network
from recognition.optim.schedule import Schedule


class ArcfaceRun:
    """A backbone and the centers of `num_ranks` ranks under one SGD, driven by the batches of `loader`."""

    def __init__(self, config: Config, loader: BatchLoader, *, num_classes: int, num_ranks: int) -> None:
        torch.manual_seed(7)
        self.config = config
        self.loader = loader
        size = config.backbone.embedding_size
        self.backbone = build_backbone(config.backbone.network, embedding_size=size, image_size=config.data.image_size)
        self.shards = [
            torch.nn.Parameter(torch.normal(0, 0.01, (len(class_range(num_classes, rank, num_ranks)), size)))
            for rank in range(num_ranks)
        ]
        self.optimizers = [
            torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=config.optim.weight_decay)
            for parameters in (self.backbone.parameters(), self.shards)
        ]
        self.schedule = Schedule.of(
            config.optim, steps_per_epoch=loader.steps_per_epoch, num_epoch=config.train.num_epoch
        )
        self.step = 0

    def train(self, steps: int) -> list[float]:
        """Take `steps` steps and return the loss of each."""
        losses = []
        for _ in range(steps):
            epoch, start = divmod(self.step, self.loader.steps_per_epoch)
            batch = next(self.loader.epoch(epoch, start))
            flips = flip_mask(self.config.seed, epoch, batch.indices, self.config.data.flip)
            losses.append(self._step(to_network(batch.images, flips), batch.labels))
        return losses

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = self.schedule.lr_at(self.step)
        embeddings = functional.normalize(self.backbone.train()(images))
        cosine = functional.linear(embeddings, functional.normalize(torch.cat(list(self.shards)))).clamp(-1, 1)
        loss = functional.cross_entropy(_with_margin(cosine, labels, self.config) * self.config.head.scale, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), 5)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return loss.item()

    def save(self, folder: Path) -> None:
        """Write checkpoint_gpu_<rank>.pt for every rank, with the keys and numbering of train_v2.py there."""
        folder.mkdir(parents=True, exist_ok=True)
        for rank in range(len(self.shards)):
            torch.save(self.content(rank), folder / f"checkpoint_gpu_{rank}.pt")

    def content(self, rank: int) -> dict[str, Any]:
        """Return what one rank saves."""
        backbone, centers = (optimizer.state_dict() for optimizer in self.optimizers)
        last = len(backbone["param_groups"][0]["params"])
        group = {key: value for key, value in backbone["param_groups"][0].items() if key != "params"}
        return {
            "epoch": self.step // self.loader.steps_per_epoch,
            "global_step": self.step,
            "state_dict_backbone": self.backbone.state_dict(),
            "state_dict_softmax_fc": {"weight": self.shards[rank].data},
            "state_optimizer": {
                "state": {**backbone["state"], last: centers["state"][rank]},
                "param_groups": [{**group, "params": list(range(last))}, {**group, "params": [last]}],
            },
            "state_lr_scheduler": {
                "total_iters": self.schedule.total_steps,
                "power": 1.0,
                "warmup_iters": 0,
                "base_lrs": [0.1, 0.1],
                "last_epoch": self.step,
                "_step_count": self.step + 1,
                "_last_lr": [0.1, 0.1],
            },
        }


def _with_margin(cosine: torch.Tensor, labels: torch.Tensor, config: Config) -> torch.Tensor:
    """ArcFace's margin as trained there: no gradient flows through the change of the target's cosine."""
    target = cosine.detach()[torch.arange(len(labels)), labels]
    change = (target.arccos() + config.head.margins[1]).cos() - target
    return cosine + functional.one_hot(labels, cosine.shape[1]) * change[:, None]
