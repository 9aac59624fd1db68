"""What a run gives to others, while it trains and at its end: its model, with all that a reader has to know of it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recognition.backbones.architecture import Architecture
from recognition.backbones.metadata import ModelMetadata
from recognition.backbones.run_weights import RUN_MODEL, RUN_WEIGHTS
from recognition.backbones.weights import keep_as_best, save_model
from recognition.config.loader import flatten
from recognition.config.schema import Config
from recognition.distributed.staging import refuse_broken
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.errors import CheckpointError, DataError
from recognition.feed.loader import BatchLoader
from recognition.training.build import Parts
from recognition.training.run_folder import RunStatus, write_status
from recognition.training.shown_model import ShownModel
from recognition.training.state import TrainState
from recognition.work.revision import find_revision

logger = logging.getLogger(__name__)

LOCAL_KEYS = frozenset(
    {
        "output",
        "init_from",
        "data.rec",
        "data.more_rec",
        "data.identities",
        "teacher.model",
        "teacher.embeddings",
        "validation.val_dir",
        "log.wandb",
    }
)
"""Keys whose values mean something on this machine or to its user alone; a model that is given away leaves them."""


class Publisher:
    """Publishes the weights as they are: the newest as model.*, those of the best validation as best.* too.

    `num_failed` counts what the disk did not take before the end; it ends no training.
    """

    def __init__(
        self, folder: Path, parts: Parts, config: Config, state: TrainState, *, loader: BatchLoader, shown: ShownModel
    ) -> None:
        self.num_failed = 0
        self._folder = folder
        self._parts = parts
        self._config = config
        self._state = state
        self._loader = loader
        self._shown = shown
        self._tried_step = -1  # equal on all ranks
        self._step = -1  # of what rank 0 published

    def publish(self, world: World) -> None:
        """Publish while the run trains, unless this step's weights are there already; a failure is a warning.

        All ranks call it. Collective: one sum, without sync_bn.
        """
        if self._tried_step == self._state.step:
            return
        self._tried_step = self._state.step
        with self._shown.shown():
            if not world.is_main:
                return
            try:
                refuse_broken({"": self._parts.backbone.state_dict()})
                self._write(is_ended=False)
            except (DataError, CheckpointError) as err:
                self.num_failed += 1
                logger.warning("step %s: no weights: %s; training continues", f"{self._state.step:,}", err)

    def publish_last(self, world: World) -> None:
        """Publish the weights of the last step and note that the run has ended; DataError on all ranks alike.

        Collectives: one sum, without sync_bn, and one gather.
        """

        def write() -> None:
            if world.is_main:
                self._write(is_ended=True)

        with self._shown.shown():
            together(write, world)

    def _write(self, *, is_ended: bool) -> None:
        if self._step != self._state.step:
            distillation = self._parts.distillation
            about = describe_model(
                self._config,
                self._state,
                self._loader.dataset_fingerprint(),
                teacher={} if distillation is None else distillation.teacher.facts,
            )
            save_model(self._parts.backbone, self._folder, about)
            if self._state.best_step == self._state.step:
                keep_as_best(self._folder)
            self._step = self._state.step
            logger.info("wrote %s and %s", self._folder / RUN_MODEL, RUN_WEIGHTS)
        write_status(self._folder, RunStatus(is_ended, self._state.step))


def describe_model(
    config: Config,
    state: TrainState,
    dataset: Mapping[str, int | str],
    *,
    teacher: Mapping[str, int | str] | None = None,
) -> ModelMetadata:
    """Return what the model of a run says of itself; `dataset` is the fingerprint of its training set."""
    return ModelMetadata(
        Architecture.of(config.backbone, config.data.image_size),
        dataset=dataset,
        config=portable_config(config),
        revision=_revision(),
        teacher=teacher or {},
        metrics=_metrics(state),
    )


@functools.cache
def _revision() -> str:
    """Return the revision that runs; a checkout is asked once a process, not at every validation."""
    return find_revision()


def portable_config(config: Config) -> dict[str, Any]:
    """Return the config by dotted key, as JSON holds it, without what belongs to this machine."""
    values = {key: value for key, value in flatten(config).items() if key not in LOCAL_KEYS}
    return {**values, "stages": [str(stage) for stage in config.stages]}  # a reader takes three levels at most


def _metrics(state: TrainState) -> dict[str, Any]:
    """Return where the run stood, and the accuracies of its validations: the mean of the last, the best of each set."""
    counts: dict[str, Any] = {"step": state.step, "images_seen": state.images_seen}
    if state.accuracy is None:
        return counts
    return {**counts, "validated_step": state.validated_step, "accuracy": state.accuracy, "best": dict(state.best)}
