"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recognition.backbones.weights import save_backbone
from recognition.config.schema import Config
from recognition.data.loader import Batch, BatchLoader
from recognition.distributed.checkpoint import Checkpoint, Snapshot
from recognition.distributed.collectives import barrier, gather_numbers, gather_objects
from recognition.distributed.replicate import averaged_buffers
from recognition.distributed.saver import Saver
from recognition.distributed.world import World, naming_lost_ranks
from recognition.errors import ArcShardError, DataError
from recognition.inference import Embedder
from recognition.optim.schedule import Schedule
from recognition.training.build import Parts
from recognition.training.interrupts import Interrupts, Stopped
from recognition.training.meters import DeviceMeans, RunLog, Throughput, peak_memory_bytes, report_line
from recognition.training.resume import global_batch, load_run, order_settings, snapshot_run
from recognition.training.start import CHECKPOINTS
from recognition.training.state import TrainState
from recognition.training.stepper import Stepper, StepResult
from recognition.training.wandb_run import WandbRun

logger = logging.getLogger(__name__)

Embed = Callable[[np.ndarray], np.ndarray]
Validator = Callable[[Embed], dict[str, float]]


class TrainingError(ArcShardError):
    """The run cannot go on; the last good checkpoint stays."""


class Trainer:
    """Drives the parts of a run over its data; every rank holds one and calls the same methods in the same order."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        loader: BatchLoader,
        *,
        world: World,
        folder: Path,
        validators: Mapping[str, Validator],
        start: Checkpoint | None = None,
    ) -> None:
        self.config = config
        self.parts = parts
        self.loader = loader
        self.world = world
        self.folder = folder
        self.validators = validators
        self.accumulation = config.train.gradient_accumulation
        self.steps_per_epoch = loader.steps_per_epoch // self.accumulation
        self.schedule = Schedule.of(
            config.optim, steps_per_epoch=self.steps_per_epoch, num_epoch=config.train.num_epoch
        )
        self.stepper = Stepper(config, parts, world)
        self.state = TrainState()
        self.means = DeviceMeans()
        if start is not None:
            self._resume(start)
        self.log = RunLog(
            folder,
            is_main=world.is_main,
            tensorboard=config.log.tensorboard,
            wandb=WandbRun(config, folder) if world.is_main and config.log.wandb else None,
            step=-1 if start is None else self.state.step,
        )
        self.saver = Saver(
            folder / CHECKPOINTS,
            self._snapshot(),
            world=world,
            keep=config.checkpoint.keep,
            max_failures=config.checkpoint.max_failures,
        )
        self.saver.saved_step = None if start is None else start.step
        self.throughput = Throughput()
        self.interrupts = Interrupts()
        self._recent_refusals: list[torch.Tensor] = []
        self._is_save_due = False
        self._met = time.perf_counter()
        self._advised_epoch = -1

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.schedule.total_steps

    def fit(self) -> None:
        """Train from where the run stands to its end: step, report, validate, save; then publish model.pt.

        Raises Stopped when a signal ended it in good order.
        """
        try:
            with self.interrupts.listening(), naming_lost_ranks(self.world, self._where):
                if self.state.validated_step < 0:
                    self.validate()
                start_epoch, start_step = divmod(self.state.step, self.steps_per_epoch)
                for epoch in range(start_epoch, self.config.train.num_epoch):
                    self._train_epoch(epoch, start_step if epoch == start_epoch else 0)
                if self.state.validated_step < self.state.step:
                    self.validate()
                self._save_last()
                self._publish_model()
        finally:
            self.saver.abandon()
            self.log.close()

    def train_step(self, batches: list[Batch], epoch: int) -> StepResult:
        """Take one optimizer step and account for it."""
        lr = self.schedule.lr_at(self.state.step)
        result = self.stepper.step(batches, step=self.state.step, epoch=epoch, lr=lr)
        self.state.step += 1
        self.state.images_seen += sum(len(batch.labels) for batch in batches) * self.world.size
        self.means.add(result.values)
        self._recent_refusals.append(result.refused)
        return result

    def validate(self) -> dict[str, dict[str, float]]:
        """Run every validator on all ranks and log the results; the training's own state keeps every bit."""
        if not self.validators:
            return {}
        embedder = Embedder(
            self.parts.backbone,
            device=self.world.device,
            batch_size=self.config.validation.batch_size,
            precision=self.config.train.precision,
        )
        with averaged_buffers(self.parts.backbone, self.world):
            results = {name: self._validate_on(name, embedder) for name in self.validators}
        self.state.validated_step = self.state.step
        self.state.accuracy = float(np.mean([values["accuracy"] for values in results.values()]))
        self.parts.backbone.train()
        self.throughput.restart()
        return results

    def save(self) -> None:
        """Begin a checkpoint of this step, unless it has one; all ranks call it. A thread does the rest."""
        self._is_save_due = False
        if self.saver.saved_step == self.state.step:
            return
        started = time.perf_counter()
        self.saver.begin(self._snapshot())
        logger.info(
            "step %s  checkpoint begun, training stood still for %.3fs",
            f"{self.state.step:,}",
            time.perf_counter() - started,
        )

    def _validate_on(self, name: str, embedder: Embedder) -> dict[str, float]:
        started = time.perf_counter()
        values = self.validators[name](embedder.embed)
        best = max(values["accuracy"], self.state.best.get(name, 0.0))
        self.state.best[name] = best
        logger.info(
            "step %s  %s  accuracy %.4f ± %.4f  best %.4f  (%.1fs)",
            f"{self.state.step:,}",
            name,
            values["accuracy"],
            values["std"],
            best,
            time.perf_counter() - started,
        )
        self.log.write(self.state.step, name, values)
        return values

    def _resume(self, start: Checkpoint) -> None:
        self.state = load_run(
            start,
            self.parts,
            self.stepper.scaler,
            order=self._order(),
            sync_bn=self.config.backbone.sync_bn,
            world=self.world,
        )
        self.means.load_state(start.meta.get("means", {"steps": 0, "sums": {}}), self.world.device)
        logger.info(
            "resumed %s at step %s, lr %.6f", start.path, f"{self.state.step:,}", self.schedule.lr_at(self.state.step)
        )

    def _order(self) -> dict[str, Any]:
        return order_settings(self.config, self.loader.num_images)

    def _snapshot(self) -> Snapshot:
        meta = {
            "scaler": self.stepper.scaler.state(),
            "network": self.config.backbone.network,
            "global_batch": global_batch(self.config, self.world),
            "order": self._order(),
            "means": self.means.state(),
        }
        return snapshot_run(self.parts, self.state, meta, has_own_buffers=not self.config.backbone.sync_bn)

    def _train_epoch(self, epoch: int, start_step: int) -> None:
        self.parts.backbone.train()
        self.throughput.restart()
        batches = self.loader.epoch(epoch, start_step * self.accumulation)
        for _ in range(start_step, self.steps_per_epoch):
            waiting = time.perf_counter()
            micro_batches, problem = _fetch(batches, self.accumulation)
            waited_s = time.perf_counter() - waiting
            self._agree(problem)
            self.train_step(micro_batches, epoch)
            self.throughput.add(len(micro_batches[0].labels) * len(micro_batches) * self.world.size, waited_s)
            self._after_step(epoch)

    def _after_step(self, epoch: int) -> None:
        step, checkpoint = self.state.step, self.config.checkpoint
        if step % self.config.log.every_steps == 0 or step == self.total_steps:
            self._report(epoch)
        if step == self.total_steps:
            return  # what comes last is not done twice
        if step % self.config.validation.every_steps == 0:
            self.validate()
        by_epochs = step % (checkpoint.every_epochs * self.steps_per_epoch) == 0
        by_steps = checkpoint.every_steps is not None and step % checkpoint.every_steps == 0
        self._is_save_due |= by_epochs or by_steps
        if self._is_save_due and not self._is_refusing():
            self.save()

    def _agree(self, problem: Exception | None) -> None:
        """Learn what any rank has to tell before all of them enter a step, and act on it alike.

        A rank whose next batch failed must not leave the others in the step's collectives. Collective: one gather of
        four numbers between the hosts.
        """
        own = [problem is not None, self.interrupts.stop, self.interrupts.save, self.saver.is_working]
        self.interrupts.save = False
        failed, stop, save, working = zip(*gather_numbers([int(flag) for flag in own], self.world))
        self._met = time.perf_counter()
        self.saver.advance(any(working))
        if any(stop):  # before a failure: when a job is cancelled, its loader's processes may be gone first
            self._save_last()
            raise Stopped(max(stop))
        if any(failed):
            self._raise_alike(problem)
        if any(save) and not self._is_broken():
            self.save()

    def _raise_alike(self, problem: Exception | None) -> None:
        if problem is not None and not isinstance(problem, ArcShardError):
            logger.error("the next batch failed", exc_info=problem)
        text = None if problem is None else str(problem).strip() or type(problem).__name__
        texts = gather_objects(text, self.world)
        raise DataError(next(text for text in texts if text is not None)) from problem

    def _save_last(self) -> None:
        """Save where the run stands, unless it stands badly, and wait until it is on the disk."""
        if not self._is_broken():
            self.save()
        self.saver.finish()

    def _is_broken(self) -> bool:
        """Tell whether any rank's state holds a non-finite value, and warn; looked at only when steps are refused."""
        if not self._is_refusing():
            return False
        ranks = gather_numbers([bool(self.stepper.broken_state())], self.world)
        broken = [rank for rank, (flag,) in enumerate(ranks) if flag]
        if broken:
            logger.warning(
                "step %s: not saved, because its last %d steps were refused and the state of rank %d is not finite; "
                "the checkpoint before stays the newest",
                f"{self.state.step:,}", self.state.refused_in_a_row, broken[0],
            )  # fmt: skip
        return bool(broken)

    def _is_refusing(self) -> bool:
        """Tell whether the last step was refused; what is saved then may be what brought it about. One host sync."""
        self._count_refusals()
        return self.state.refused_in_a_row > 0

    def _count_refusals(self) -> None:
        if not self._recent_refusals:
            return
        for refused in torch.stack(self._recent_refusals).tolist():
            self.state.refused_steps += refused > 0
            self.state.refused_in_a_row = self.state.refused_in_a_row + 1 if refused else 0
        self._recent_refusals.clear()

    def _report(self, epoch: int) -> None:
        """Log the means since the last report. The one place of the step path that copies values to the host."""
        self._count_refusals()
        values = {
            **self.means.drain(),
            "lr": self.schedule.lr_at(self.state.step - 1),
            **self.throughput.drain(),
            "memory_bytes": peak_memory_bytes(self.world.device),
            "scale": float(self.stepper.scaler.scale),
            "refused": self.state.refused_steps,
            "epoch": epoch,
        }
        logger.info(report_line(self.state.step, self.total_steps, epoch, values))
        advice = self.loader.advice(values["data_wait"], values["img_per_s"] / self.world.size)
        if advice and epoch != self._advised_epoch:
            self._advised_epoch = epoch
            logger.warning("step %s: %s", f"{self.state.step:,}", advice)
        self.log.write(self.state.step, "train", values)
        if self.log.draws:
            norms = torch.linalg.vector_norm(self.stepper.embeddings, dim=1)
            self.log.histograms(self.state.step, {"embedding_norm": norms, **self.parts.head.rows})
        if self.state.refused_in_a_row >= self.config.train.max_refused_steps:
            self._stop_refusing()

    def _stop_refusing(self) -> None:
        broken = gather_objects(self.stepper.broken(), self.world)
        found = "; ".join(f"rank {rank}: {', '.join(names)}" for rank, names in enumerate(broken) if names)
        raise TrainingError(
            f"step {self.state.step}: {self.state.refused_in_a_row} steps in a row were refused for a non-finite value "
            f"({found or 'none is left in state or gradients'}); expected fewer than train.max_refused_steps="
            f"{self.config.train.max_refused_steps}; lower optim.lr or use train.precision=bf16; the last good "
            "checkpoint is kept"
        )

    def _publish_model(self) -> None:
        with averaged_buffers(self.parts.backbone, self.world):
            if self.world.is_main:
                save_backbone(self.parts.backbone, self.folder / "model.pt")
                logger.info("wrote %s", self.folder / "model.pt")
        barrier(self.world)

    def _where(self) -> str:
        return f"at step {self.state.step:,}, {time.perf_counter() - self._met:.0f} s after they last met"


def _fetch(batches: Iterator[Batch], count: int) -> tuple[list[Batch], Exception | None]:
    """Return the next `count` batches, or the error that one of them is."""
    try:
        return list(islice(batches, count)), None
    except Exception as err:  # any at all: the other ranks must hear of it
        return [], err
