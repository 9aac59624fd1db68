"""What a run leaves for others: its model, with all that a reader has to know of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from recognition.backbones.architecture import Architecture
from recognition.backbones.metadata import ModelMetadata
from recognition.backbones.weights import RUN_MODEL, RUN_WEIGHTS, save_model
from recognition.config.loader import flatten
from recognition.config.schema import Config
from recognition.training.state import TrainState
from recognition.work.revision import find_revision

logger = logging.getLogger(__name__)

LOCAL_KEYS = frozenset(
    {"output", "init_from", "data.rec", "data.more_rec", "data.identities", "validation.val_dir", "log.wandb"}
)
"""Keys whose values mean something on this machine or to its user alone; a model that is given away leaves them."""


def publish_model(
    folder: Path, backbone: nn.Module, config: Config, state: TrainState, dataset: Mapping[str, int | str]
) -> None:
    """Write model.safetensors and model.pt of the weights as they are; one rank calls it. DataError when it cannot."""
    save_model(backbone, folder, describe_model(config, state, dataset))
    logger.info("wrote %s and %s", folder / RUN_MODEL, RUN_WEIGHTS)


def describe_model(config: Config, state: TrainState, dataset: Mapping[str, int | str]) -> ModelMetadata:
    """Return what the model of a run says of itself; `dataset` is the fingerprint of its training set."""
    return ModelMetadata(
        Architecture.of(config.backbone, config.data.image_size),
        dataset=dataset,
        config=portable_config(config),
        revision=find_revision(),
        metrics=_metrics(state),
    )


def portable_config(config: Config) -> dict[str, Any]:
    """Return the config by dotted key, as JSON holds it, without what belongs to this machine."""
    return {key: value for key, value in flatten(config).items() if key not in LOCAL_KEYS}


def _metrics(state: TrainState) -> dict[str, Any]:
    """Return where the run stood, and the accuracies of its validations: the mean of the last, the best of each set."""
    counts: dict[str, Any] = {"step": state.step, "images_seen": state.images_seen}
    if state.accuracy is None:
        return counts
    return {**counts, "validated_step": state.validated_step, "accuracy": state.accuracy, "best": dict(state.best)}
