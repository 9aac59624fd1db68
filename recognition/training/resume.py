"""What of a run goes into a checkpoint, and how it comes back on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recognition.backbones.run_weights import BACKBONE
from recognition.config.schema import Config
from recognition.distributed.checkpoint import Checkpoint, Snapshot
from recognition.errors import CheckpointError
from recognition.heads.guards import check_kind
from recognition.heads.saving import MARGIN, alike
from recognition.training.build import Parts
from recognition.training.distillation import named_trained
from recognition.training.run_meta import OrderSettings, RunMeta
from recognition.training.scaler import LossScaler
from recognition.training.state import TrainState


def snapshot_run(parts: Parts, meta: RunMeta, *, has_own_buffers: bool) -> Snapshot:
    """Return what this rank hands to a checkpoint of `meta.state.step`: the live tensors, not copies.

    `has_own_buffers`: BatchNorm's statistics are each rank's own (without sync_bn) and not equal on all of them.
    """
    backbone = _named(BACKBONE, parts.backbone.state_dict())
    own = {BACKBONE + name for name, buffer in parts.backbone.named_buffers() if buffer.is_floating_point()}
    local = own if has_own_buffers else set()
    shared = {name: tensor for name, tensor in backbone.items() if name not in local}
    return Snapshot(
        step=meta.state.step,
        replicated={**shared, **_beside_backbone(parts), **_optimizer_tensors(parts), **alike(parts.head)},
        rows={**parts.head.state_rows(), **_center_rows(parts)},
        local={name: tensor for name, tensor in backbone.items() if name in local},
        classes=parts.head.class_range,
        num_classes=parts.num_classes,
        meta=meta.as_json(),
        score=meta.state.accuracy,
    )


def order_settings(config: Config, num_images: int) -> OrderSettings:
    """Return what decides which images a step of this run sees."""
    return OrderSettings(num_images, config.seed, config.data.shuffle_block, config.data.images_per_identity)


def load_run(checkpoint: Checkpoint, parts: Parts, scaler: LossScaler, *, order: OrderSettings) -> TrainState:
    """Bring `parts` and `scaler` to where the checkpoint stands and return its state.

    Raises CheckpointError when the checkpoint is of another network, head, optimizer or data set.
    """
    path = checkpoint.path
    if checkpoint.num_classes != parts.num_classes:
        raise CheckpointError(
            f"{path}: holds {checkpoint.num_classes} classes; the data set has {parts.num_classes}; "
            "resume with the data set of the run, or start a run that keeps the centers of its people by their names: "
            "init_from=RUN head.init=keep"
        )
    meta = RunMeta.of(checkpoint.meta, str(path))
    difference = None if meta.order is None else meta.order.difference(order)
    if difference is not None:
        raise CheckpointError(
            f"{path}: {difference}; expected no change, since images of the epoch would be seen twice or never; "
            "resume with the original settings, or start a new run with init_from"
        )
    if meta.state.step != checkpoint.step:
        raise CheckpointError(f"{path}: its state is of step {meta.state.step}; expected that of its folder")
    tensors = {**checkpoint.replicated(), **checkpoint.local(parts.head.world)}
    live = {
        **_named(BACKBONE, parts.backbone.state_dict()),
        **_beside_backbone(parts),
        **_optimizer_tensors(parts),
        **alike(parts.head),
    }
    _refuse_strangers(checkpoint, tensors, live)
    if parts.head.update == "fused":
        check_kind("second_moment" in checkpoint.row_names(), parts.head.state.kind, str(path))
    classes = parts.head.class_range
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(_matching(checkpoint, tensors, name, tensor))
        for name, tensor in {**parts.head.state_rows(), **_center_rows(parts)}.items():
            checkpoint.read_rows_(name, classes, tensor)
    parts.head.steps = meta.state.step
    scaler.load_state(meta.scaler)
    return meta.state


def _refuse_strangers(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> None:
    strangers = sorted(tensors.keys() - live.keys())
    if strangers:
        raise CheckpointError(
            f"{checkpoint.path}: holds {strangers[0]!r} and {len(strangers) - 1} more tensors that this run has no "
            "place for; resume with the run's own config.yaml"
        )


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _optimizer_tensors(parts: Parts) -> dict[str, Tensor]:
    """Return the live state that all ranks hold alike: the optimizer's tensors under their parameters' names, and the
    step count where the centers are a parameter whose optimizer has one."""
    names: dict[Tensor, str] = {p: name for name, p in named_trained(parts.backbone, parts.distillation)}
    names |= {p: f"{MARGIN}{name}" for name, p in parts.head.statistics.named_parameters()}
    tensors = {
        f"optimizer.{names[parameter]}.{key}": tensor
        for parameter, state in parts.optimizer.state.items()
        if parameter in names
        for key, tensor in state.items()
    }
    return tensors | {f"head_optimizer.{key}": tensor for key, tensor in _of_centers(parts) if tensor.ndim == 0}


def _beside_backbone(parts: Parts) -> dict[str, Tensor]:
    """Return what is learned beside the backbone where there is a teacher, and the average of the weights."""
    learned = {} if parts.distillation is None else dict(parts.distillation.state())
    return learned if parts.average is None else {**learned, **_named("average.", parts.average.state())}


def _center_rows(parts: Parts) -> dict[str, Tensor]:
    """Return the live per-row state of centers that are a parameter (head.update=autograd)."""
    return {f"optimizer.{key}": tensor for key, tensor in _of_centers(parts) if tensor.ndim > 0}


def _of_centers(parts: Parts) -> list[tuple[str, Tensor]]:
    return list(parts.optimizer.state.get(parts.head.centers, {}).items())


def _matching(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    found = tensors.get(name)
    if found is None or found.shape != like.shape or found.dtype != like.dtype:
        held = "absent" if found is None else f"{found.dtype} {list(found.shape)}"
        raise CheckpointError(
            f"{checkpoint.path}: {name!r} is {held}; expected {like.dtype} {list(like.shape)}; resume with the run's "
            "own config.yaml, or start a new run with init_from"
        )
    return found
