"""Verification during training: the present model, measured without a change of the training's own state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import numpy as np

from recognition.config.schema import Config
from recognition.distributed.replicate import averaged_buffers
from recognition.distributed.world import World
from recognition.embedding.embedder import Embedder
from recognition.training.build import Parts
from recognition.training.reports import Reports
from recognition.training.state import TrainState

logger = logging.getLogger(__name__)

Embed = Callable[[np.ndarray], np.ndarray]
Validator = Callable[[Embed], dict[str, float]]


def validate(
    validators: Mapping[str, Validator], parts: Parts, state: TrainState, reports: Reports, config: Config, world: World
) -> dict[str, dict[str, float]]:
    """Run every validator on all ranks, log the results and note them in `state`; weights and buffers keep their bits.

    Without sync_bn the model that is looked at has the mean of the ranks' buffers.
    """
    if not validators:
        return {}
    embedder = Embedder(
        parts.backbone,
        device=world.device,
        batch_size=config.validation.batch_size,
        precision=config.train.precision,
    )
    results = {}
    with averaged_buffers(parts.backbone, world):
        for name, validator in validators.items():
            started = time.perf_counter()
            results[name] = validator(embedder.embed)
            _note(name, results[name], state, seconds=time.perf_counter() - started)
            reports.log.write(state.step, name, results[name])
    state.validated_step = state.step
    state.accuracy = float(np.mean([values["accuracy"] for values in results.values()]))
    reports.throughput.restart()
    return results


def _note(name: str, values: Mapping[str, float], state: TrainState, *, seconds: float) -> None:
    best = state.best[name] = max(values["accuracy"], state.best.get(name, 0.0))
    logger.info(
        "step %s  %s  accuracy %.4f ± %.4f  best %.4f  (%.1fs)",
        f"{state.step:,}",
        name,
        values["accuracy"],
        values["std"],
        best,
        seconds,
    )
