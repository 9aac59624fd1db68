"""The training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from recognition.backbones.weights import save_backbone
from recognition.config.schema import Config
from recognition.data.loader import Batch, BatchLoader
from recognition.distributed.checkpoint import latest_checkpoint
from recognition.distributed.collectives import barrier
from recognition.distributed.replicate import equalize_buffers
from recognition.distributed.world import World
from recognition.errors import ArcShardError
from recognition.inference import Embedder
from recognition.optim.schedule import Schedule
from recognition.training.build import Parts
from recognition.training.meters import DeviceMeans, RunLog, Throughput, peak_memory_bytes, report_line
from recognition.training.resume import load_run, save_run
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
        self.log = RunLog(
            folder,
            is_main=world.is_main,
            tensorboard=config.log.tensorboard,
            wandb=WandbRun(config, folder) if world.is_main and config.log.wandb else None,
        )
        self.means = DeviceMeans()
        self.throughput = Throughput()
        self._recent_refusals: list[torch.Tensor] = []
        self._advised_epoch = -1

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.schedule.total_steps

    def fit(self) -> None:
        """Train from where the run stands to its end: validate, step, report, save; then publish model.pt."""
        self._resume()
        if self.state.step == 0:
            self.validate()
        start_epoch, start_step = divmod(self.state.step, self.steps_per_epoch)
        for epoch in range(start_epoch, self.config.train.num_epoch):
            self._train_epoch(epoch, start_step if epoch == start_epoch else 0)
            if (epoch + 1) % self.config.checkpoint.every_epochs == 0 or self.state.step == self.total_steps:
                self.save()
        self.validate()
        self._publish_model()
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
        """Run every validator on all ranks and log the results; BatchNorm buffers are made equal first."""
        if not self.validators:
            return {}
        equalize_buffers(self.parts.backbone, self.world)
        embedder = Embedder(
            self.parts.backbone,
            device=self.world.device,
            batch_size=self.config.validation.batch_size,
            precision=self.config.train.precision,
        )
        results = {}
        for name, validator in self.validators.items():
            started = time.perf_counter()
            values = validator(embedder.embed)
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
            results[name] = values
        self.parts.backbone.train()
        self.throughput.restart()
        return results

    def save(self) -> Path:
        """Write a checkpoint of this step; all ranks call it."""
        started = time.perf_counter()
        logger.info("step %s  saving a checkpoint", f"{self.state.step:,}")
        path = save_run(
            self.folder / "checkpoints", self.parts, self.stepper.scaler, self.state, self.config, self.world
        )
        logger.info("saved %s in %.1fs", path, time.perf_counter() - started)
        self.throughput.restart()
        return path

    def _resume(self) -> None:
        if not self.config.resume:
            return
        path = latest_checkpoint(self.folder / "checkpoints")
        if path is None:
            logger.info("resume: no checkpoint below %s yet, starting at step 0", self.folder)
            return
        self.state = load_run(path, self.parts, self.stepper.scaler, self.world)
        logger.info(
            "resumed %s at step %s, lr %.6f", path, f"{self.state.step:,}", self.schedule.lr_at(self.state.step)
        )

    def _train_epoch(self, epoch: int, start_step: int) -> None:
        self.parts.backbone.train()
        self.throughput.restart()
        batches = self.loader.epoch(epoch, start_step * self.accumulation)
        for _ in range(start_step, self.steps_per_epoch):
            waiting = time.perf_counter()
            micro_batches = list(islice(batches, self.accumulation))
            waited_s = time.perf_counter() - waiting
            self.train_step(micro_batches, epoch)
            self.throughput.add(len(micro_batches[0].labels) * len(micro_batches) * self.world.size, waited_s)
            step = self.state.step
            if step % self.config.log.every_steps == 0 or step == self.total_steps:
                self._report(epoch)
            if step % self.config.validation.every_steps == 0 and step < self.total_steps:
                self.validate()

    def _report(self, epoch: int) -> None:
        """Log the means since the last report. The one place of the step path that copies values to the host."""
        refusals = torch.stack(self._recent_refusals).tolist()
        self._recent_refusals.clear()
        for refused in refusals:
            self.state.refused_steps += refused > 0
            self.state.refused_in_a_row = self.state.refused_in_a_row + 1 if refused else 0
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
            raise TrainingError(
                f"step {self.state.step}: {self.state.refused_in_a_row} steps in a row were refused for a non-finite "
                f"value; expected fewer than train.max_refused_steps={self.config.train.max_refused_steps}; lower "
                "optim.lr or use train.precision=bf16; the last good checkpoint is kept"
            )

    def _publish_model(self) -> None:
        equalize_buffers(self.parts.backbone, self.world)
        if self.world.is_main:
            save_backbone(self.parts.backbone, self.folder / "model.pt")
            logger.info("wrote %s", self.folder / "model.pt")
        barrier(self.world)
