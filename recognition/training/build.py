"""From a config to the parts a trainer drives."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from recognition.backbones.architecture import Architecture
from recognition.backbones.weights import load_weights
from recognition.config.schema import Config
from recognition.distributed.replicate import convert_sync_bn, replicate
from recognition.distributed.world import World
from recognition.heads.sharded_softmax import ShardedSoftmax
from recognition.optim.groups import make_optimizer

logger = logging.getLogger(__name__)


@dataclass
class Parts:
    """What one rank trains. `replica` is `backbone` under DDP, or `backbone` itself in a world of one."""

    backbone: nn.Module
    replica: nn.Module
    head: ShardedSoftmax
    num_classes: int
    optimizer: torch.optim.Optimizer
    head_optimizer: torch.optim.Optimizer | None
    """Present with head.update=autograd alone; otherwise the head takes its own step."""

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Every optimizer that a step drives."""
        return [self.optimizer] + ([self.head_optimizer] if self.head_optimizer else [])


def build_parts(config: Config, num_classes: int, world: World) -> Parts:
    """Build backbone, head and optimizers on this rank's device; the backbone starts alike on every rank."""
    torch.manual_seed(config.seed)
    architecture = Architecture.of(config.backbone, config.data.image_size)
    backbone = architecture.build(dropout=config.backbone.dropout)
    if config.init_from:
        keys = load_weights(backbone, Path(config.init_from), asked=architecture)
        logger.info(
            "backbone starts from %s: all %d keys matched, network %s, embedding size %d",
            config.init_from,
            keys,
            config.backbone.network,
            config.backbone.embedding_size,
        )
    if config.backbone.sync_bn:
        backbone = convert_sync_bn(backbone)
    backbone = backbone.to(world.device)
    if config.train.channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = ShardedSoftmax(
        num_classes,
        config.backbone.embedding_size,
        world=world,
        config=config.head,
        seed=config.seed,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
    )
    decay_all = config.optim.optimizer == "sgd"  # the published recipes decay every parameter
    head_optimizer = None
    if config.head.update == "autograd":
        head_optimizer = make_optimizer(
            head.parameters(), config.optim, decay_all=True, lr_factor=config.head.lr_factor
        )
    return Parts(
        backbone=backbone,
        replica=replicate(_compiled(backbone, config), world),
        head=head,
        num_classes=num_classes,
        optimizer=make_optimizer(backbone.parameters(), config.optim, decay_all=decay_all),
        head_optimizer=head_optimizer,
    )


def _compiled(backbone: nn.Module, config: Config) -> nn.Module:
    return torch.compile(backbone) if config.train.compile else backbone  # type: ignore[return-value]
