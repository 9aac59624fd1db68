"""From a config to the parts a trainer drives."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from recognition.backbones.architecture import Architecture, layers_of, training_options
from recognition.backbones.weights import load_weights
from recognition.config.schema import Config, HeadConfig
from recognition.distributed.replicate import convert_sync_bn, replicate
from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.heads.by_class import ByClass
from recognition.heads.guards import check_margin
from recognition.heads.margins import CombinedMargin, Margin, make_margin
from recognition.heads.optimizer import HeadOptimizer
from recognition.heads.sharded_softmax import ShardedSoftmax
from recognition.optim.groups import make_optimizer
from recognition.training.distillation import Distillation, Student, named_trained
from recognition.training.ema import WeightAverage
from recognition.training.fine_tuning import freeze_, tune_groups_
from recognition.training.teacher import Teacher

logger = logging.getLogger(__name__)


@dataclass
class Parts:
    """What one rank trains. `replica` is `backbone` under DDP, or `backbone` itself in a world of one; with a teacher
    it is the student, which gives the embeddings and what the teacher's are compared with."""

    backbone: nn.Module
    replica: nn.Module
    head: ShardedSoftmax
    num_classes: int
    optimizer: HeadOptimizer
    """Of the backbone and of the centers: a step counts for both or for none."""
    distillation: Distillation | None = None
    """With a teacher: its targets, and what is learned beside the backbone."""

    average: WeightAverage | None = None
    """With train.ema."""

    def trained(self) -> list[nn.Parameter]:
        """Return all that gradient steps move but the centers."""
        return [parameter for _, parameter in named_trained(self.backbone, self.distillation)]


def build_parts(
    config: Config,
    num_classes: int,
    world: World,
    teacher: Teacher | None = None,
    class_sizes: Tensor | None = None,
) -> Parts:
    """Build backbone, head and optimizers on this rank's device; the backbone starts alike on every rank.

    `class_sizes` [num_classes]: see `wants_class_sizes`.
    """
    torch.manual_seed(config.seed)
    architecture = Architecture.of(config.backbone, config.data.image_size)
    backbone = architecture.build(**training_options(config.backbone))
    if config.init_from:
        keys = load_weights(backbone, Path(config.init_from), asked=architecture)
        logger.info(
            "backbone starts from %s: all %d keys matched, network %s, embedding size %d",
            config.init_from,
            keys,
            config.backbone.network,
            config.backbone.embedding_size,
        )
    freeze_(backbone, config.optim)
    if config.backbone.sync_bn:
        backbone = convert_sync_bn(backbone)
    student = None if teacher is None else Student(backbone, config.backbone.embedding_size, teacher.size)
    (student or backbone).to(world.device)
    if config.train.channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = build_head(config, num_classes, world, class_sizes)
    distillation = None
    if teacher is not None and student is not None:
        distillation = Distillation(teacher, student, config.teacher.weight)
    parts = Parts(
        backbone=backbone,
        replica=replicate(_compiled(student or backbone, config), world, compression=config.train.gradient_compression),
        head=head,
        num_classes=num_classes,
        optimizer=_optimizer(config, backbone, [p for _, p in named_trained(backbone, distillation)], head),
        distillation=distillation,
        average=None if config.train.ema is None else WeightAverage(backbone, config.train.ema),
    )
    tune_groups_(parts.optimizer, backbone, config.optim)
    return parts


def build_head(config: Config, num_classes: int, world: World, class_sizes: Tensor | None = None) -> ShardedSoftmax:
    """Return this rank's share of the head that `config` describes."""
    head = config.head
    by_class = ByClass(class_sizes)
    if class_sizes is not None and head.class_balance:
        by_class = ByClass.balanced(class_sizes, head.class_balance)
    return ShardedSoftmax(
        num_classes,
        config.backbone.embedding_size,
        margin=margin_of(head),
        by_class=by_class,
        scale=head.scale,
        seed=config.seed,
        world=world,
        update="autograd" if head.update == "autograd" else "fused",  # "deferred" is an older word for it
        products=head.products,
        mode="auto" if head.kernels else ("device" if world.device.type == "cuda" else "host"),
        sub_centers=head.sub_centers,
        sample_rate=head.sample_rate,
        negatives=head.negatives,
        unsampled=head.unsampled,
        sampling_correction=head.sampling_correction,
        interclass_filtering_threshold=head.interclass_filtering_threshold,
        label_smoothing=head.label_smoothing,
        centers_format=head.centers_format,
        momentum_format=head.momentum_format,
        block_size=head.block_size,
    )


def margin_of(head: HeadConfig) -> Margin:
    """Return the margin that the config chooses; ConfigError with file and line where it is none of the registry's."""
    chosen = head.margin
    if chosen is None:
        m1, m2, m3 = head.margins
        return CombinedMargin(m1, m2, m3, head.margin_gradient)
    margin = make_margin(chosen.name, chosen.settings, where=lambda key: f"{chosen.where(key)}head.margin: ")
    if head.scale != HeadConfig.scale and not margin.uses_scale:
        raise ConfigError(
            f"{chosen.where()}head.scale: would be ignored with head.margin {chosen.name!r}, which has its own "
            "scale or none; remove this key"
        )
    if head.init == "class_means" and margin.has_bias:
        raise ConfigError(
            f"{chosen.where()}head.init: found 'class_means' with head.margin {chosen.name!r}, whose centers are no "
            "means of embeddings; use head.init: random"
        )
    check_margin(margin, head.sub_centers, head.interclass_filtering_threshold, head.label_smoothing)
    return margin


def wants_class_sizes(head: HeadConfig) -> bool:
    """Return whether the head that the config describes needs to know the images of each class."""
    return head.class_balance > 0 or margin_of(head).wants_class_sizes


def _optimizer(config: Config, backbone: nn.Module, trained: list[nn.Parameter], head: ShardedSoftmax) -> HeadOptimizer:
    optim, centers = config.optim, list(head.parameters())
    of_backbone = make_optimizer(
        trained,
        optim,
        decay_all=optim.optimizer == "sgd" if optim.decay_vectors is None else optim.decay_vectors,
        layers=layers_of(backbone, config.backbone.network) if optim.layer_decay != 1 else (),
        centers=centers,
        lr_factor=config.head.lr_factor,
    )
    if centers:
        return head.optimizer(backbone=of_backbone)
    kind = config.centers_optimizer
    optimizer = head.optimizer(
        kind=kind,
        lr=optim.lr,
        momentum=0.0 if kind == "adamw" or config.head.momentum_format == "none" else optim.momentum,
        weight_decay=optim.weight_decay,
        betas=optim.betas if kind == "adamw" else None,
        backbone=of_backbone,
        overlap=config.head.overlap,
    )
    optimizer.param_groups[0]["lr_factor"] = config.head.lr_factor
    return optimizer


def _compiled(backbone: nn.Module, config: Config) -> nn.Module:
    return torch.compile(backbone) if config.train.compile else backbone  # type: ignore[return-value]
