"""Stages as pure functions of the step: nothing of them is saved, and a resumed run is in the stage of its step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recognition.config.stages import Stage
from recognition.errors import ConfigError


@dataclass(frozen=True)
class Span:
    """A stage, number `number` from 1 on, and its steps range(first, stop)."""

    number: int
    stage: Stage
    first: int
    stop: int


@dataclass(frozen=True)
class Settings:
    """What holds at one step; None is the config's own value."""

    number: int = 0
    """Of the stage; 0 where there is none."""
    sample_rate: float | None = None
    scale: float | None = None
    lr_factor: float = 1.0
    margin: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageSchedule:
    """The stages of a run, one after another from step 0 on; after the last the config's own values hold."""

    spans: Sequence[Span] = ()

    @classmethod
    def of(cls, stages: Sequence[Stage], *, steps_per_epoch: int, total_steps: int) -> StageSchedule:
        """Return the schedule of a run; ConfigError where the stages do not end one after another and before its end.

        An epoch that is a fraction is rounded to steps. The last stage may leave its end out: that of the run.
        """
        spans: list[Span] = []
        for number, stage in enumerate(stages, 1):
            first = spans[-1].stop if spans else 0
            stop = _end(stage, steps_per_epoch)
            if stop is None and number < len(stages):
                raise ConfigError(
                    f"{stage.where}stages: stage {number} of {len(stages)} has no end; expected until_epoch or "
                    "until_step in all but the last; state it"
                )
            if first >= total_steps or (stop is not None and not first < stop <= total_steps):
                end = "the end of the run" if stop is None else f"step {stop:,}"
                raise ConfigError(
                    f"{stage.where}stages: stage {number} goes from step {first:,} to {end}; expected stages in order, "
                    f"each with a step, within the {total_steps:,} steps of the run; correct until_epoch or until_step"
                )
            spans.append(Span(number, stage, first, total_steps if stop is None else stop))
        return cls(tuple(spans))

    def at(self, step: int) -> Settings:
        """Return what holds at optimizer step `step`, the first being 0.

        A ramp from a to b over the steps range(first, stop) is a + (b - a) (step - first) / (stop - first): it begins
        at a, and the stage after it would go on from b.
        """
        for span in self.spans:
            if span.first <= step < span.stop:
                share = (step - span.first) / (span.stop - span.first)
                stage = span.stage
                return Settings(
                    number=span.number,
                    sample_rate=stage.sample_rate,
                    scale=None if stage.scale is None else stage.scale.at(share),
                    lr_factor=stage.lr_factor.at(share),
                    margin={name: ramp.at(share) for name, ramp in stage.margin.items()},
                )
        return Settings()


def _end(stage: Stage, steps_per_epoch: int) -> int | None:
    steps: float | None = stage.get("until_step")
    if "until_epoch" in stage:
        steps = stage["until_epoch"] * steps_per_epoch
    return None if steps is None else round(steps)
