"""Config and data sizes -> the numbers of a run, by which the trainer runs. A run that cannot work stops here.

Global batch, steps and epochs are worked out in this module and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from recognition.backbones.architecture import Architecture, layers_of
from recognition.backbones.matching import build_empty
from recognition.config.checks import check_config
from recognition.config.schema import Config
from recognition.distributed.shards import class_range
from recognition.errors import ConfigError
from recognition.formats.class_use import class_warning
from recognition.optim.schedule import Schedule
from recognition.optim.stages import StageSchedule
from recognition.plan.memory import Memory, backbone_cost, rank_memory

# Below this PartialFC has cost accuracy in published runs; above it, it is the usual choice.
_SAMPLING_PAYS_FROM = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Everything about a run that follows from its config, its data's sizes and its number of ranks.

    An epoch has `steps_per_epoch` optimizer steps of `micro_batches` batches each, and step s is the step
    s % steps_per_epoch of epoch s // steps_per_epoch.
    """

    config: Config
    device: str
    """What a rank computes on: "cpu" or "cuda"."""
    world_size: int
    num_images: int
    num_classes: int
    num_used: int
    """Classes with an image; all of them where nobody has counted."""
    global_batch: int
    """Images per optimizer step, over ranks and micro-batches."""
    micro_batches: int
    """Batches of a rank in one optimizer step."""
    steps_per_epoch: int
    schedule: Schedule
    stages: StageSchedule
    images_left_out: int
    """Images of an epoch that do not fill a global batch; other ones each epoch."""
    scaled_lr: float | None
    """optim.lr scaled linearly from its reference batch; None without one, or when this is that batch."""
    first_classes: int
    """Classes of rank 0, which owns the most."""
    last_classes: int
    sampled_classes: int
    """Classes rank 0 uses in a step, the most of any stage."""
    memory: Memory
    """Of rank 0."""
    warnings: tuple[str, ...]

    @property
    def num_epoch(self) -> int:
        """Passes over the data."""
        return self.config.train.num_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.schedule.total_steps

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps before the full learning rate."""
        return self.schedule.warmup_steps


def global_batch_of(config: Config, world_size: int) -> int:
    """Return the images of an optimizer step, over ranks and micro-batches."""
    return config.train.batch_size * config.train.gradient_accumulation * world_size


def with_global_batch(config: Config, world_size: int, global_batch: int) -> Config:
    """Return `config` with the images per rank that make `global_batch` on so many ranks.

    Raises ConfigError when it does not divide, or when the number that comes out does not go with another key.
    """
    accumulation = config.train.gradient_accumulation
    each, rest = divmod(global_batch, world_size * accumulation)
    if rest or not each:
        micro = f" x {accumulation} micro-batches" if accumulation > 1 else ""
        raise ConfigError(
            f"was trained with a global batch of {global_batch:,}, which does not divide by {world_size} "
            f"ranks{micro}; resume on a number of ranks that divides it"
        )
    held = replace(config, train=replace(config.train, batch_size=each))
    check_config(held)
    return held


def make_plan(
    config: Config,
    *,
    world_size: int,
    num_images: int,
    num_classes: int,
    num_used: int | None = None,
    device: str = "cpu",
) -> Plan:
    """Work out the run on a "cpu" or on "cuda". `num_used` classes have an image, if not all.

    Pure: it reads no file and no environment.

    Raises ConfigError when the run cannot work: an epoch without a step, a warm-up as long as the training, a sample of
    classes too small for the batch's own, or BatchNorm over a single image.
    """
    train = config.train
    if config.optim.layer_decay != 1:
        layers_of(build_empty(Architecture.of(config.backbone, config.data.image_size)), config.backbone.network)
    _refuse_single_image(config, world_size)
    global_batch = global_batch_of(config, world_size)
    steps_per_epoch = num_images // global_batch
    if not steps_per_epoch:
        raise ConfigError(
            f"train.batch_size: {num_images:,} images cannot fill one global batch of "
            f"{_spell_batch(config, world_size)} = {global_batch:,}; lower train.batch_size or the number of ranks"
        )
    schedule = Schedule.of(config.optim, steps_per_epoch=steps_per_epoch, num_epoch=train.num_epoch)
    if schedule.warmup_steps >= schedule.total_steps:
        raise ConfigError(
            f"optim.warmup_epoch: a warm-up of {schedule.warmup_steps:,} steps leaves nothing of a training of "
            f"{schedule.total_steps:,}; lower optim.warmup_epoch"
        )
    stages = StageSchedule.of(config.stages, steps_per_epoch=steps_per_epoch, total_steps=schedule.total_steps)
    first, last = (len(class_range(num_classes, rank, world_size)) for rank in (0, world_size - 1))
    rates = _sample_rates(config, stages, schedule.total_steps)
    sampled = max(_sampled_classes(config, rate, world_size, num_classes, first) for rate in rates)
    return Plan(
        config=config,
        device=device,
        world_size=world_size,
        num_images=num_images,
        num_classes=num_classes,
        num_used=num_classes if num_used is None else num_used,
        global_batch=global_batch,
        micro_batches=train.gradient_accumulation,
        steps_per_epoch=steps_per_epoch,
        schedule=schedule,
        stages=stages,
        images_left_out=num_images - steps_per_epoch * global_batch,
        scaled_lr=_scaled_lr(config, global_batch),
        first_classes=first,
        last_classes=last,
        sampled_classes=sampled,
        memory=rank_memory(
            _with_rate(config, max(rates)), world_size=world_size, num_classes=num_classes, device=device
        ),
        warnings=tuple(_warnings(config, world_size, num_classes, num_used, schedule)),
    )


def _with_rate(config: Config, rate: float) -> Config:
    return replace(config, head=replace(config.head, sample_rate=rate))


def _enough(share: float) -> str:
    """Return the advice for a sample that holds `share` of the classes; a rate ends at 1."""
    rate = math.ceil(share * 100) / 100
    return f"raise head.sample_rate above {rate:.2g}" if rate < 1 else "set head.sample_rate to 1, which uses them all"


def _refuse_single_image(config: Config, world_size: int) -> None:
    """Raise ConfigError when a BatchNorm would see one image, of which there is no variance."""
    backbone = config.backbone
    normed = config.train.batch_size * (world_size if backbone.sync_bn else 1)
    if normed > 1 or not backbone_cost(backbone, config.data.image_size).has_batch_norm:
        return
    fewer = ", or run on fewer ranks, which then have more images each" if config.resume and world_size > 1 else ""
    together = ", or set backbone.sync_bn=true" if world_size > 1 else ""
    raise ConfigError(
        f"train.batch_size: 1 image a rank, and the BatchNorm of {backbone.network} needs the variance of at least 2; "
        f"raise train.batch_size{fewer}{together}"
    )


def _spell_batch(config: Config, world_size: int) -> str:
    accumulation = config.train.gradient_accumulation
    micro_batches = f" x {accumulation} micro-batches" if accumulation > 1 else ""
    return f"{config.train.batch_size} x {world_size} ranks{micro_batches}"


def _scaled_lr(config: Config, global_batch: int) -> float | None:
    reference = config.optim.reference_batch
    if reference is None or reference == global_batch:
        return None
    return config.optim.lr * global_batch / reference


def _sample_rates(config: Config, stages: StageSchedule, total_steps: int) -> set[float]:
    """Return the shares of the classes that steps of the run use: those of stages, and the config's where none is."""
    own, end = config.head.sample_rate, stages.spans[-1].stop if stages.spans else 0
    rates = {own if span.stage.sample_rate is None else span.stage.sample_rate for span in stages.spans}
    return rates if end >= total_steps else rates | {own}


def _sampled_classes(config: Config, rate: float, world_size: int, num_classes: int, owned: int) -> int:
    """Return how many classes a rank that owns `owned` uses in a step; raise when its sample is too small."""
    if rate == 1:
        return owned
    rows = config.train.batch_size * world_size
    # Distinct labels among `rows` draws, and this rank's share of them.
    positives = num_classes * (1 - (1 - 1 / num_classes) ** rows) / world_size
    sample = round(rate * owned)
    if rate and sample < positives:
        raise ConfigError(
            f"head.sample_rate: {rate:g} of {owned:,} classes is a sample of {sample:,} per rank, and a batch of "
            f"{rows:,} images brings about {positives:,.0f} classes of its own to each; "
            f"{_enough(positives / owned)}, or set it to 0 for the batch's classes alone"
        )
    return max(sample, round(positives))


def _warnings(config: Config, world_size: int, num_classes: int, num_used: int | None, schedule: Schedule) -> list[str]:
    warnings = []
    if num_used is not None and config.head.weight:
        sources = [str(config.data.rec), *config.data.more_rec]
        warning = class_warning(num_classes, num_used, source=" ".join(sources), is_one_set=len(sources) == 1)
        warnings += [] if warning is None else [warning]
    if 0 < config.head.sample_rate < 1 and num_classes < _SAMPLING_PAYS_FROM:
        warnings.append(
            f"head.sample_rate {config.head.sample_rate:g} with {num_classes:,} identities: sampling has cost accuracy "
            "below about a million; head.sample_rate=1 uses them all"
        )
    if num_classes < world_size:
        warnings.append(f"{num_classes} identities on {world_size} ranks leave some ranks without any")
    if config.validation.val_targets and config.validation.every_steps >= schedule.total_steps:
        warnings.append(
            f"validation.every_steps {config.validation.every_steps:,} is beyond the last step: validation runs before "
            "step 1 and at the end only"
        )
    return warnings
