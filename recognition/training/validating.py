"""Verification during training: the present model, measured without a change of the training's own state."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import numpy as np

from recognition.config.schema import Config
from recognition.distributed.replicate import averaged_buffers
from recognition.distributed.world import World
from recognition.embedding.embedder import Embedder
from recognition.training.build import Parts
from recognition.training.reports import Reports
from recognition.training.state import TrainState
from recognition.verification.validators import Report, Validator

logger = logging.getLogger(__name__)


def validate(
    validators: Mapping[str, Validator], parts: Parts, state: TrainState, reports: Reports, config: Config, world: World
) -> dict[str, Report]:
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
            report = results[name] = validator.run(embedder.embed)
            best = state.best[name] = max(report.score, state.best.get(name, report.score))
            seconds = time.perf_counter() - started
            logger.info("step %s  %s  %s  best %.4f  (%.1fs)", f"{state.step:,}", name, report.line, best, seconds)
            reports.log.write(state.step, name, report.values)
    state.validated_step = state.step
    state.accuracy = float(np.mean([report.score for report in results.values()]))
    reports.throughput.restart()
    return results
