"""Turn the checkpoint of an interrupted arcface_torch run into one of ours. The files are read as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from recognition.backbones.architecture import Architecture
from recognition.backbones.matching import build_empty
from recognition.config.schema import Config
from recognition.console import progress
from recognition.distributed.checkpoint import Snapshot, latest_checkpoint
from recognition.distributed.publish import write_checkpoint
from recognition.distributed.shards import class_range
from recognition.errors import CheckpointError, ConfigError
from recognition.heads.coasting import Coast
from recognition.heads.saving import COAST
from recognition.heads.state import CenterState
from recognition.migrate.arcface_checkpoint import ArcfaceShard, check_bytes, check_shards, find_shards, read_shard
from recognition.plan.run import global_batch_of
from recognition.training.run_meta import RunMeta
from recognition.training.scaler import LossScaler
from recognition.training.state import TrainState

_CPU = torch.device("cpu")
_BLOCK = 1 << 16  # rows converted at a time


def import_run(
    old: Path, checkpoints: Path, config: Config, *, quiet: bool = True
) -> tuple[Path, list[ArcfaceShard], list[str]]:
    """Write the checkpoint of the arcface_torch run in `old` below `checkpoints`; return (its path, shards, notes).

    Raises CheckpointError when a file is missing, damaged, hostile or does not fit; nothing is written then.
    """
    if config.head.sub_centers != 1:
        raise ConfigError(
            f"head.sub_centers: found {config.head.sub_centers}, expected 1: arcface_torch has one center per identity"
        )
    existing = latest_checkpoint(checkpoints)
    if existing is not None:
        raise CheckpointError(f"{existing}: exists already; expected a run without checkpoints; choose a new folder")
    network = build_empty(Architecture.of(config.backbone, config.data.image_size))
    shards = []
    for path in progress(find_shards(old), total=None, unit="shard", label="reading", quiet=quiet):
        check_bytes(path)
        shards.append(read_shard(path, network, config))
    num_classes = check_shards(shards, config.data.num_classes)
    snapshots = _snapshots(shards, num_classes, config)
    written = write_checkpoint(
        checkpoints, progress(snapshots, total=len(shards), unit="shard", label="writing", quiet=quiet)
    )
    return written, shards, _notes(shards, config)


def _snapshots(shards: Sequence[ArcfaceShard], num_classes: int, config: Config) -> Iterator[Snapshot]:
    """Yield what each old rank would have handed to a checkpoint of ours; its rows exist while they are written."""
    first = shards[0]
    step = first.global_step // config.train.gradient_accumulation
    state = TrainState(step=step, images_seen=first.global_step * config.train.batch_size * len(shards))
    scaler = LossScaler(_CPU, enabled=config.train.precision == "fp16")
    meta = RunMeta(state, scaler.state(), config.backbone.network, global_batch_of(config, len(shards)))
    for rank, shard in enumerate(shards):
        classes = class_range(num_classes, rank, len(shards))
        yield Snapshot(
            step=step,
            replicated=_replicated(first, config),
            rows=_rows(shard, classes, config, step),
            local={},
            classes=classes,
            num_classes=num_classes,
            meta=meta.as_json(),
        )


def _replicated(shard: ArcfaceShard, config: Config) -> dict[str, Tensor]:
    tensors = {f"backbone.{name}": _as_kept(tensor) for name, tensor in shard.backbone.items()}
    for kind, by_name in shard.backbone_state.items():
        tensors |= {f"optimizer.{name}.{kind}": tensor.float() for name, tensor in by_name.items()}
    if config.head.update == "autograd" and config.optim.optimizer == "adamw":
        steps = (shard.centers_state or {}).get("step", torch.zeros(()))
        tensors["head_optimizer.step"] = steps.float()
    if _coasts(config):  # all rows of the files are of their step, so they have missed as little as on the first day
        tensors |= {COAST + name: tensor for name, tensor in Coast(range(0), _CPU).shared().items()}
    return tensors


def _coasts(config: Config) -> bool:
    return config.head.unsampled == "coast" and config.head.update != "autograd"


def _as_kept(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _rows(shard: ArcfaceShard, classes: range, config: Config, step: int) -> dict[str, Tensor]:
    """Return the rows of one rank in the formats of `head.centers_format` and `head.momentum_format`."""
    state = CenterState(
        classes,
        shard.centers.shape[1],
        centers_format=config.head.centers_format,
        momentum_format="none" if config.head.update == "autograd" else config.head.momentum_format,
        coasts=_coasts(config),
        device=_CPU,
        dtype=torch.float32,
        seed=config.seed,
    )
    held, uses_adamw = shard.centers_state or {}, config.centers_optimizer == "adamw"
    if uses_adamw and config.head.update != "autograd":
        state.serve("adamw")
    momentum, second = held.get("exp_avg" if uses_adamw else "momentum_buffer"), held.get("exp_avg_sq")
    updates = _steps_of(shard)  # there every row moves in every step, sampled or not
    for start in range(0, len(classes), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(classes)))
        centers = shard.centers[rows].float()
        moved, squared = (_rows_of(moment, rows, centers) for moment in (momentum, second))
        if not all(values.isfinite().all() for values in (centers, moved, squared)) or (squared < 0).any():
            raise CheckpointError(
                f"{shard.path}: a center or its momentum is not finite among classes {classes[rows]}; "
                "the run had diverged; start from an older model.pt with init_from"
            )
        state.write(rows, centers, moved, step=step, refused=None)
        if state.kind == "adamw":
            counts = torch.full((len(centers),), updates, dtype=torch.int32)
            state.write_second(rows, squared, counts, step=step, refused=None)
    tensors = state.stored()
    if config.head.update == "autograd":
        kinds = ("exp_avg", "exp_avg_sq") if config.optim.optimizer == "adamw" else ("momentum_buffer",)
        for kind in kinds:
            tensors[f"optimizer.{kind}"] = held[kind].float() if kind in held else torch.zeros_like(tensors["centers"])
    return tensors


def _steps_of(shard: ArcfaceShard) -> int:
    step = (shard.centers_state or {}).get("step", torch.zeros(()))
    if step.numel() != 1 or not 0 <= float(step) < 2**31:
        raise CheckpointError(f"{shard.path}: AdamW's step of the centers is {step.tolist()!r:.40}; expected a count")
    return int(step)


def _rows_of(moment: Tensor | None, rows: slice, like: Tensor) -> Tensor:
    """Return a copy of the rows of a moment, or zeros where the file has none."""
    return torch.zeros_like(like) if moment is None else moment[rows].to(torch.float32, copy=True)


def _notes(shards: Sequence[ArcfaceShard], config: Config) -> list[str]:
    """Return what a reader would otherwise assume wrongly."""
    images = global_batch_of(config, len(shards))
    notes = [
        "schedule: the rate is a function of the step here, so the step alone carries over and state_lr_scheduler is "
        "not read",
        f"ranks: keep the global batch of {images:,} on any other number of ranks, and a step stays a step",
        "order: the images of an epoch are shuffled differently; BatchNorm's statistics are those of the old rank 0",
    ]
    if any(shard.centers_state is None for shard in shards):
        notes.append("momentum: the files hold none for all centers (sampling of an older version), theirs starts at 0")
    elif config.centers_optimizer != config.optim.optimizer:
        notes.append(
            f"momentum: {config.optim.optimizer} drove the centers there; with head.optimizer {config.head.optimizer} "
            "it starts at 0"
        )
    if config.head.update != "autograd" and config.head.momentum_format == "none":
        notes.append("momentum: head.momentum_format none keeps none for the centers")
    return notes
