"""The stages of a run at work: before each step the head gets the margin, scale and sampling of that step."""

from __future__ import annotations

import dataclasses
import logging

from recognition.config.schema import Config
from recognition.errors import ConfigError
from recognition.heads.adjust import adjust
from recognition.heads.choosing import Sampling
from recognition.heads.guards import check_update
from recognition.heads.margins import Margin
from recognition.optim.stages import Settings, StageSchedule
from recognition.registry import nearest
from recognition.training.build import Parts, margin_of

logger = logging.getLogger(__name__)


class Stages:
    """Applies a schedule to the head; without stages it does nothing."""

    def __init__(self, schedule: StageSchedule, parts: Parts, config: Config) -> None:
        self._schedule = schedule
        self._parts = parts
        self._head = config.head
        self._margin = parts.head.margin
        self._number = -1

    def enter(self, step: int) -> Settings:
        """Bring the head to what holds at `step`, and return it; a line of the log says that a stage begins."""
        settings = self._schedule.at(step)
        if not self._schedule.spans:
            return settings
        adjust(
            self._parts.head,
            margin=dataclasses.replace(self._margin, **settings.margin),  # type: ignore[type-var]
            scale=self._head.scale if settings.scale is None else settings.scale,
            sample_rate=self._head.sample_rate if settings.sample_rate is None else settings.sample_rate,
        )
        if settings.number != self._number:
            self._number = settings.number
            stage = next((span.stage for span in self._schedule.spans if span.number == settings.number), None)
            logger.info("step %s  %s", f"{step:,}", "after the last stage" if stage is None else f"stage {stage}")
        return settings

    def lr_factor(self, step: int) -> float:
        """Return what the learning rate of `step` is multiplied by."""
        return self._schedule.at(step).lr_factor


def check_stages(config: Config) -> None:
    """Raise ConfigError, with file and line, for a setting that the margin does not have or cannot take."""
    margin: Margin = margin_of(config.head)
    known = [entry.name for entry in dataclasses.fields(margin) if entry.init and entry.type in ("float", float)]  # type: ignore[arg-type]
    head = config.head
    for stage in config.stages:
        if stage.sample_rate is not None:
            try:
                sampling = Sampling(stage.sample_rate, head.negatives, head.unsampled, head.sampling_correction)
                check_update(head.update, head.centers_format, sampling)
            except ConfigError as err:
                raise ConfigError(f"{stage.where}stages: {err}") from err
        for name, ramp in stage.margin.items():
            if name not in known:
                hint = nearest(name, known) if known else "; it has none"
                raise ConfigError(
                    f"{stage.where}stages: margin: {name}: no setting of {type(margin).__name__} that is a number{hint}"
                )
            for value in (ramp.first, ramp.last):
                try:
                    dataclasses.replace(margin, **{name: value})  # type: ignore[type-var]
                except ConfigError as err:
                    raise ConfigError(f"{stage.where}stages: {err}") from err
