"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recognition.backbones.run_weights import CHECKPOINTS
from recognition.distributed.checkpoint import Checkpoint, Snapshot
from recognition.distributed.collectives import gather_numbers
from recognition.distributed.replicate import average_buffers_
from recognition.distributed.saver import Saver
from recognition.distributed.together import together
from recognition.distributed.world import World, naming_lost_ranks
from recognition.errors import ConfigError
from recognition.feed.loader import Batch, BatchLoader
from recognition.plan.run import Plan
from recognition.training.build import Parts
from recognition.training.interrupts import Interrupts, Stopped
from recognition.training.publish import Publisher
from recognition.training.refusals import RefusalWatch, stop_refusing
from recognition.training.reports import Reports
from recognition.training.resume import load_run, order_settings, snapshot_run
from recognition.training.run_folder import FolderLock
from recognition.training.run_meta import DRAW, OrderSettings, RunMeta
from recognition.training.shown_model import ShownModel, hold_frozen_norms_
from recognition.training.stages import Stages
from recognition.training.state import TrainState
from recognition.training.stepper import Stepper, StepResult
from recognition.training.validating import follow_score, validate
from recognition.verification.validators import Report, Validator

logger = logging.getLogger(__name__)


class Trainer:
    """Drives the parts of a run over its data; every rank holds one and calls the same methods in the same order."""

    def __init__(
        self,
        plan: Plan,
        parts: Parts,
        loader: BatchLoader,
        *,
        world: World,
        folder: Path,
        validators: Mapping[str, Validator],
        start: Checkpoint | None = None,
        lock: FolderLock | None = None,
    ) -> None:
        self.plan = plan
        self.config = config = plan.config
        self.parts = parts
        self.loader = loader
        self.world = world
        self.folder = folder
        self.validators = validators
        assert loader.steps_per_epoch // plan.micro_batches == plan.steps_per_epoch, "the plan is of other data"
        self.stepper = Stepper(config, parts, world)
        self.shown = ShownModel(parts, config, world, num_images=loader.num_images, read=loader.read)
        self.stages = Stages(plan.stages, parts, config)
        self.state = TrainState() if start is None else self._resumed(start)
        self.reports = Reports(
            config,
            folder,
            self.state,
            is_resumed=start is not None,
            stepper=self.stepper,
            loader=loader,
            world=world,
        )
        self.saver = Saver(
            folder / CHECKPOINTS,
            self._snapshot(),
            world=world,
            keep=config.checkpoint.keep,
            max_failures=config.checkpoint.max_failures,
            check=lambda: None if lock is None else lock.check(),
        )
        self.saver.saved_step = None if start is None else start.step
        parts.optimizer.register_step_pre_hook(lambda *_: self.saver.hold())
        # One short of the limit at most: a run that goes on takes a step before it is judged.
        most = config.train.max_refused_steps - 1
        self.refusals = RefusalWatch(min(self.state.refused_in_a_row, most))
        self.publisher = Publisher(folder, parts, config, self.state, loader=loader, shown=self.shown)
        self.interrupts = Interrupts()
        self._is_save_due = False
        self._met = time.perf_counter()

    def fit(self) -> None:
        """Train from where the run stands to its end: step, report, validate, save; then publish the model.

        Raises Stopped when a signal ended it in good order.
        """
        try:
            with self.interrupts.listening(), naming_lost_ranks(self.world, self._where):
                if self.state.validated_step < 0:
                    self.validate()
                start_epoch, start_step = divmod(self.state.step, self.plan.steps_per_epoch)
                for epoch in range(start_epoch, self.plan.num_epoch):
                    self._train_epoch(epoch, start_step if epoch == start_epoch else 0)
                if self.state.validated_step < self.state.step:
                    self.validate()
                self._save_last()
                self.publisher.publish_last(self.world)
        finally:
            self.saver.abandon()
            self.reports.log.close()
            self.loader.close()

    def train_step(self, batches: list[Batch], epoch: int, labels_on_host: list[Tensor] | None = None) -> StepResult:
        """Take one optimizer step and account for it; `labels_on_host` is what `agree` has returned."""
        self.stages.enter(self.state.step)
        lr = self._lr_at(self.state.step)
        result = self.stepper.step(batches, step=self.state.step, epoch=epoch, lr=lr, labels_on_host=labels_on_host)
        self.state.step += 1
        self.state.images_seen += self.plan.global_batch
        self.reports.add(result)
        self.refusals.add(result.refused)
        return result

    def validate(self) -> dict[str, Report]:
        """Run every validator on all ranks, log the results, publish the weights; the training keeps every bit."""
        results = validate(self.validators, self.parts, self.state, self.reports, self.config, self.world, self.shown)
        if results and self.config.optim.schedule == "plateau" and self.state.step > self.plan.warmup_steps:
            follow_score(self.state, patience=self.config.optim.patience, world=self.world)
        if results and self.state.step > 0:
            self.publisher.publish(self.world)
        return results

    def _lr_at(self, step: int) -> float:
        return self.plan.schedule.lr_at(step, self.state.plateau_drops) * self.stages.lr_factor(step)

    def save(self) -> None:
        """Begin a checkpoint of this step, unless it has one; all ranks call it. A thread does the rest."""
        self._is_save_due = False
        if self.saver.saved_step == self.state.step:
            return
        started = time.perf_counter()
        # Rows that coast may move between two steps, those of head.overlap before the optimizer's step, which waits for
        # the copy.
        moves_early = self.parts.head.state.coast is not None or self.config.head.overlap
        self.saver.begin(self._snapshot(), rows_beside=not moves_early)
        paused = f", training paused for {time.perf_counter() - started:.3f}s"
        # On a GPU the host has only asked for the copies: how long they took is said when all is saved.
        logger.info(
            "step %s  checkpoint begun%s", f"{self.state.step:,}", "" if self.world.device.type == "cuda" else paused
        )

    def _resumed(self, start: Checkpoint) -> TrainState:
        def load() -> dict[str, Any]:
            return asdict(load_run(start, self.parts, self.stepper.scaler, order=self._order()))

        state = TrainState(**together(load, self.world)[0])
        if self.config.backbone.sync_bn:
            average_buffers_(self.parts.backbone, self.world)  # those of a run without it may differ
        if state.step > self.plan.total_steps:
            raise ConfigError(
                f"{start.path}: stands at step {state.step:,}; expected at most the {self.plan.total_steps:,} steps of "
                f"train.num_epoch={self.plan.num_epoch}; raise it"
            )
        lr = self.plan.schedule.lr_at(state.step, state.plateau_drops) * self.stages.lr_factor(state.step)
        logger.info("resumed %s at step %s, lr %.6f", start.path, f"{state.step:,}", lr)
        return state

    def _order(self) -> OrderSettings:
        return order_settings(self.config, self.loader.num_images)

    def _snapshot(self) -> Snapshot:
        self.reports.settle()
        meta = RunMeta(
            state=self.state,
            scaler=self.stepper.scaler.state(),
            network=self.config.backbone.network,
            global_batch=self.plan.global_batch,
            order=self._order(),
            products=self.parts.head.resolved_products,
            draw=DRAW,
        )
        return snapshot_run(self.parts, meta, has_own_buffers=not self.config.backbone.sync_bn)

    def _train_epoch(self, epoch: int, start_step: int) -> None:
        self.parts.backbone.train()
        hold_frozen_norms_(self.parts.backbone)
        self.reports.throughput.restart()
        batches = self.loader.epoch(epoch, start_step * self.plan.micro_batches)
        for _ in range(start_step, self.plan.steps_per_epoch):
            waiting = time.perf_counter()
            micro_batches, problem = _fetch(batches, self.plan.micro_batches)
            waited_s = time.perf_counter() - waiting
            self.stages.enter(self.state.step)  # whether labels are asked for
            labels = self.agree(problem, micro_batches)
            self.train_step(micro_batches, epoch, labels)
            self.reports.throughput.add(self.plan.global_batch, waited_s)
            self._after_step(epoch)

    def _after_step(self, epoch: int) -> None:
        step, checkpoint = self.state.step, self.config.checkpoint
        if step % self.config.log.every_steps == 0 or step == self.plan.total_steps:
            self.reports.report(epoch, lr=self._lr_at(step - 1), total_steps=self.plan.total_steps)
            if self.state.refused_in_a_row >= self.config.train.max_refused_steps:
                self._stop_refusing()
        if step == self.plan.total_steps:
            return  # what comes last is not done twice
        if step % self.config.validation.every_steps == 0:
            self.validate()
        if step % self.plan.steps_per_epoch == 0:
            self.publisher.publish(self.world)
        by_epochs = step % (checkpoint.every_epochs * self.plan.steps_per_epoch) == 0
        by_steps = checkpoint.every_steps is not None and step % checkpoint.every_steps == 0
        self._is_save_due |= by_epochs or by_steps
        if self._is_save_due and not self._is_refusing():
            self.save()

    def agree(self, problem: Exception | None, batches: Sequence[Batch] = ()) -> list[Tensor] | None:
        """Learn what any rank has to report before all of them enter a step, and act on it in the same way.

        A rank whose next batch failed must not leave the others in the step's collectives. Returns per micro-batch the
        labels of all ranks, where the head asks the hosts for them. Collective: one gather between the hosts, of five
        numbers and of these labels.
        """
        flags = [problem is not None, self.interrupts.stop, self.interrupts.take_save_request(), self.saver.is_working]
        own = [*map(int, flags), self.refusals.look()]
        labels = self._labels_on_host(batches) if self.parts.head.asks_the_host else []
        everyones = gather_numbers([*own, *labels], self.world)
        failed, stop, save, working, refused = zip(*(numbers[: len(own)] for numbers in everyones))
        self._met = time.perf_counter()
        self.saver.advance(any(working))
        if any(stop):  # before a failure: when a job is canceled, its loader's processes may be gone first
            self._save_last()
            self.publisher.publish(self.world)
            raise Stopped(max(stop), self.state.step, self.saver.saved_step)
        if any(failed):
            self._raise_alike(problem)
        if max(refused) >= self.config.train.max_refused_steps:  # that one rank knows of is true for all
            self._stop_refusing()
        if any(save):
            self.save()
        if not labels:
            return None
        every = torch.tensor([numbers[len(own) :] for numbers in everyones])
        return [part.flatten() for part in every.chunk(self.plan.micro_batches, dim=1)]

    def _labels_on_host(self, batches: Sequence[Batch]) -> list[int]:
        """Return the labels of this rank's micro-batches, as many as the other ranks bring whatever has failed."""
        if len(batches) < self.plan.micro_batches:
            return [-1] * (self.plan.micro_batches * self.config.train.batch_size)
        found: list[int] = []
        for batch in batches:
            found += (batch.labels if batch.labels_on_host is None else batch.labels_on_host).tolist()
        return found

    def _raise_alike(self, problem: Exception | None) -> None:
        def fail() -> None:
            if problem is not None:
                raise problem

        together(fail, self.world)

    def _save_last(self) -> None:
        """Save the present step and wait until it is on the disk."""
        self.save()
        self.saver.finish()

    def _is_refusing(self) -> bool:
        """Return whether the last step was refused: such a step must not replace good checkpoints. One host sync."""
        return self.reports.count_refusals() > 0

    def _stop_refusing(self) -> None:
        self.reports.count_refusals()
        stop_refusing(self.stepper, self.state, limit=self.config.train.max_refused_steps, world=self.world)

    def _where(self) -> str:
        return f"at step {self.state.step:,}, {time.perf_counter() - self._met:.0f} s after they last met"


def _fetch(batches: Iterator[Batch], count: int) -> tuple[list[Batch], Exception | None]:
    """Return the next `count` batches, or the error that one of them is."""
    try:
        return list(islice(batches, count)), None
    except Exception as err:  # any at all: the other ranks must hear of it
        return [], err
