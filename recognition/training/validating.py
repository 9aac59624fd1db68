"""Verification during training: the present model, measured without a change of the training's own state."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import numpy as np
import torch

from recognition.config.schema import Config
from recognition.distributed.collectives import broadcast_
from recognition.distributed.world import World
from recognition.embedding.embedder import Embedder
from recognition.optim.schedule import Plateau
from recognition.training.build import Parts
from recognition.training.reports import Reports
from recognition.training.shown_model import ShownModel
from recognition.training.state import TrainState
from recognition.verification.validators import Report, Validator

logger = logging.getLogger(__name__)


def validate(
    validators: Mapping[str, Validator],
    parts: Parts,
    state: TrainState,
    reports: Reports,
    config: Config,
    world: World,
    shown: ShownModel,
) -> dict[str, Report]:
    """Run every validator on all ranks, log the results and note them in `state`; weights and buffers keep their bits.

    What is looked at is the model that the run shows.
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
    with shown.shown():
        for name, validator in validators.items():
            started = time.perf_counter()
            report = results[name] = validator.run(embedder.embed)
            best = state.best[name] = max(report.score, state.best.get(name, report.score))
            seconds = time.perf_counter() - started
            logger.info("step %s  %s  %s  best %.4f  (%.1fs)", f"{state.step:,}", name, report.line, best, seconds)
            reports.log.write(state.step, name, report.values)
    state.validated_step = state.step
    state.accuracy = float(np.mean([report.score for report in results.values()]))
    # Not before the first step: the best of what was trained.
    if state.step > 0 and (state.best_accuracy is None or state.accuracy > state.best_accuracy):
        state.best_accuracy, state.best_step = state.accuracy, state.step
    reports.throughput.restart()
    return results


def follow_score(state: TrainState, *, patience: int, world: World) -> None:
    """Let the schedule `plateau` see the mean score of the last validation. Collective: one broadcast.

    All ranks see that of rank 0: a last bit that differs must not give two ranks two learning rates.
    """
    assert state.accuracy is not None
    score = torch.tensor(state.accuracy, dtype=torch.float64, device=world.device)
    seen = Plateau(state.plateau_best, state.plateau_waited, state.plateau_drops)
    seen = seen.after(broadcast_(score, world).item(), patience)
    if seen.drops > state.plateau_drops:
        logger.info("step %s  no better for %d validations: the learning rate drops", f"{state.step:,}", patience + 1)
    state.plateau_best, state.plateau_waited, state.plateau_drops = seen.best, seen.waited, seen.drops
