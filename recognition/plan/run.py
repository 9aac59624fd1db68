"""Config and data sizes -> the numbers of a run. A run that cannot work stops here."""

from __future__ import annotations

from dataclasses import dataclass

from recognition.config.schema import Config
from recognition.distributed.shards import class_range
from recognition.errors import ConfigError
from recognition.optim.schedule import Schedule
from recognition.plan.memory import Memory, rank_memory

# Below this PartialFC has cost accuracy in published runs; above it, it is the usual choice.
_SAMPLING_PAYS_FROM = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Everything about a run that follows from its config, its data's sizes and its number of ranks."""

    config: Config
    world_size: int
    num_images: int
    num_classes: int
    global_batch: int
    """Images per optimizer step, over ranks and micro-batches."""
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    images_left_out: int
    """Images of an epoch that do not fill a global batch; other ones each epoch."""
    scaled_lr: float | None
    """optim.lr scaled linearly from its reference batch; None without one, or when this is that batch."""
    first_classes: int
    """Classes of rank 0, which owns the most."""
    last_classes: int
    sampled_classes: int
    """Classes rank 0 uses in a step."""
    memory: Memory
    """Of rank 0."""
    warnings: tuple[str, ...]


def make_plan(config: Config, *, world_size: int, num_images: int, num_classes: int) -> Plan:
    """Work out the run. Pure: it reads no file and no environment.

    Raises ConfigError when the run cannot work: an epoch without a step, a warm-up as long as the training, or a
    sample of classes too small for the batch's own.
    """
    train = config.train
    global_batch = train.batch_size * train.gradient_accumulation * world_size
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
    first, last = (len(class_range(num_classes, rank, world_size)) for rank in (0, world_size - 1))
    sampled = _sampled_classes(config, world_size, num_classes, first)
    return Plan(
        config=config,
        world_size=world_size,
        num_images=num_images,
        num_classes=num_classes,
        global_batch=global_batch,
        steps_per_epoch=steps_per_epoch,
        total_steps=schedule.total_steps,
        warmup_steps=schedule.warmup_steps,
        images_left_out=num_images - steps_per_epoch * global_batch,
        scaled_lr=_scaled_lr(config, global_batch),
        first_classes=first,
        last_classes=last,
        sampled_classes=sampled,
        memory=rank_memory(config, world_size=world_size, num_classes=num_classes),
        warnings=tuple(_warnings(config, world_size, num_classes, schedule)),
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


def _sampled_classes(config: Config, world_size: int, num_classes: int, owned: int) -> int:
    """Return how many classes a rank that owns `owned` uses in a step; raise when its sample is too small."""
    rate = config.head.sample_rate
    if rate == 1:
        return owned
    if config.head.update == "autograd":
        raise ConfigError(
            f"head.update: 'autograd' cannot go with head.sample_rate {rate:g}: an optimizer would move every class; "
            "set head.sample_rate: 1, or head.update: fused"
        )
    rows = config.train.batch_size * world_size
    # Distinct labels among `rows` draws, and this rank's share of them.
    positives = num_classes * (1 - (1 - 1 / num_classes) ** rows) / world_size
    sample = round(rate * owned)
    if rate and sample < positives:
        raise ConfigError(
            f"head.sample_rate: {rate:g} of {owned:,} classes is a sample of {sample:,} per rank, and a batch of "
            f"{rows:,} images brings about {positives:,.0f} classes of its own to each; raise head.sample_rate "
            f"above {positives / owned:.2g}, or set it to 0 for the batch's classes alone"
        )
    return max(sample, round(positives))


def _warnings(config: Config, world_size: int, num_classes: int, schedule: Schedule) -> list[str]:
    warnings = []
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
