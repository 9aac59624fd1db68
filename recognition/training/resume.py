"""What of a run goes into a checkpoint, and how it comes back on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from recognition.config.schema import Config
from recognition.distributed.checkpoint import Checkpoint, Snapshot, save_checkpoint
from recognition.distributed.replicate import equalize_buffers
from recognition.distributed.world import World
from recognition.errors import CheckpointError
from recognition.training.build import Parts
from recognition.training.scaler import LossScaler
from recognition.training.state import TrainState


def save_run(folder: Path, parts: Parts, scaler: LossScaler, state: TrainState, config: Config, world: World) -> Path:
    """Write a checkpoint of `state.step` below `folder`; BatchNorm buffers are made equal over ranks first."""
    equalize_buffers(parts.backbone, world)
    snapshot = Snapshot(
        step=state.step,
        replicated={**_named("backbone", parts.backbone.state_dict()), **_optimizer_tensors(parts)},
        rows={**parts.head.state_rows(), **_head_optimizer_rows(parts)},
        classes=parts.head.class_range,
        num_classes=parts.num_classes,
        meta={"state": state.as_dict(), "scaler": scaler.state(), "network": config.backbone.network},
    )
    return save_checkpoint(folder, snapshot, world=world, keep=config.checkpoint.keep)


def load_run(path: Path, parts: Parts, scaler: LossScaler, world: World) -> TrainState:
    """Bring `parts` and `scaler` to where the checkpoint at `path` stands and return its state.

    Raises CheckpointError when the checkpoint is of another network, head or data set.
    """
    checkpoint = Checkpoint(path)
    if checkpoint.num_classes != parts.num_classes:
        raise CheckpointError(
            f"{path}: holds {checkpoint.num_classes} classes; the data set has {parts.num_classes}; "
            "resume with the data set of the run"
        )
    tensors = checkpoint.replicated()
    _load_backbone(path, parts, tensors)
    with torch.no_grad():
        for name, tensor in _optimizer_tensors(parts).items():
            tensor.copy_(_matching(path, tensors, name, tensor))
        classes = parts.head.class_range
        for name in parts.head.state_rows():
            parts.head.load_rows(name, classes.start, checkpoint.rows(name, classes))
        for name, tensor in _head_optimizer_rows(parts).items():
            tensor.copy_(checkpoint.rows(name, classes))
    scaler.load_state(checkpoint.meta["scaler"])
    return TrainState(**checkpoint.meta["state"])


def _load_backbone(path: Path, parts: Parts, tensors: Mapping[str, torch.Tensor]) -> None:
    prefix = "backbone."
    own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        parts.backbone.load_state_dict(own)
    except RuntimeError as err:
        reason = str(err).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: does not fit the network ({reason}); resume with the run's config") from err


def _named(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _optimizer_tensors(parts: Parts) -> dict[str, torch.Tensor]:
    """Return the live state that all ranks hold alike: the backbone optimizer's tensors under their parameters' names,
    and the step count of a head optimizer that has one."""
    names: dict[torch.Tensor, str] = {p: name for name, p in parts.backbone.named_parameters()}
    tensors = {
        f"optimizer.{names[parameter]}.{key}": tensor
        for parameter, state in parts.optimizer.state.items()
        for key, tensor in state.items()
    }
    for key, tensor in _head_state(parts):
        if tensor.ndim == 0:
            tensors[f"head_optimizer.{key}"] = tensor
    return tensors


def _head_optimizer_rows(parts: Parts) -> dict[str, torch.Tensor]:
    """Return the live per-row state of the head's own optimizer (head.update=autograd)."""
    return {f"optimizer.{key}": tensor for key, tensor in _head_state(parts) if tensor.ndim > 0}


def _head_state(parts: Parts) -> list[tuple[str, torch.Tensor]]:
    if parts.head_optimizer is None:
        return []
    return [item for state in parts.head_optimizer.state.values() for item in state.items()]


def _matching(path: Path, tensors: Mapping[str, torch.Tensor], name: str, like: torch.Tensor) -> torch.Tensor:
    found = tensors.get(name)
    if found is None or found.shape != like.shape:
        raise CheckpointError(
            f"{path}: optimizer state {name!r} is {'absent' if found is None else tuple(found.shape)}; expected "
            f"{tuple(like.shape)}; resume with the run's optimizer, or start anew with init_from"
        )
    return found
