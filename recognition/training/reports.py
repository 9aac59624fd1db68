"""What a run reports: means over its steps, its speed, and how many of them were refused."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from recognition.config.schema import Config
from recognition.distributed.world import World
from recognition.feed.loader import BatchLoader
from recognition.training.meters import DeviceMeans, RunLog, Throughput, peak_memory_bytes, report_line
from recognition.training.state import TrainState
from recognition.training.stepper import Stepper, StepResult
from recognition.training.wandb_run import WandbRun

logger = logging.getLogger(__name__)


class Reports:
    """Collects the steps' results without waiting for the device, and reports them every `log.every_steps`."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        state: TrainState,
        *,
        is_resumed: bool,
        stepper: Stepper,
        loader: BatchLoader,
        world: World,
    ) -> None:
        self.log = RunLog(
            folder,
            is_main=world.is_main,
            tensorboard=config.log.tensorboard,
            wandb=WandbRun(config, folder) if world.is_main and config.log.wandb else None,
            step=state.step if is_resumed else -1,
        )
        self.throughput = Throughput()
        self._means = DeviceMeans()
        sums = {name: float(text) for name, text in state.unreported_sums.items()}
        self._means.hold(state.unreported_steps, sums, world.device)
        self._state = state
        self._stepper = stepper
        self._loader = loader
        self._world = world
        self._recent_refusals: list[torch.Tensor] = []
        self._advised_epoch = -1

    def add(self, result: StepResult) -> None:
        """Take note of a step."""
        self._means.add(result.values)
        self._recent_refusals.append(result.refused)

    def count_refusals(self) -> int:
        """Bring the state's counts up to date and return how many steps were refused in a row. One host sync."""
        if self._recent_refusals:
            for refused in torch.stack(self._recent_refusals).tolist():
                self._state.refused_steps += refused > 0
                self._state.refused_in_a_row = self._state.refused_in_a_row + 1 if refused else 0
            self._recent_refusals.clear()
        return self._state.refused_in_a_row

    def report(self, epoch: int, *, lr: float, total_steps: int) -> None:
        """Log the means since the last report. The one place of the step path that copies values to the host."""
        self.count_refusals()
        step = self._state.step
        values = {
            **self._means.drain(),
            "lr": lr,
            **self.throughput.drain(),
            "memory_bytes": peak_memory_bytes(self._world.device),
            "scale": float(self._stepper.scaler.scale),
            "refused": self._state.refused_steps,
            "bad_records": self._loader.num_bad_records,
            "epoch": epoch,
        }
        if self._loader.num_bad_records:
            values["bad_records"] = self._loader.num_bad_records
        logger.info(report_line(step, total_steps, epoch, values))
        advice = self._loader.advice(values["data_wait"], values["img_per_s"] / self._world.size)
        if advice and epoch != self._advised_epoch:
            self._advised_epoch = epoch
            logger.warning("step %s: %s", f"{step:,}", advice)
        self.log.write(step, "train", values)
        if self.log.draws:
            norms = torch.linalg.vector_norm(self._stepper.embeddings, dim=1)
            result = self._stepper.parts.head.result
            rows = {}
            if result is not None:  # with head.weight 0 there is none
                rows = {"target_cosine": result.target_cosine_N, "hardest_negative": result.hardest_negative_N}
            self.log.histograms(step, {"embedding_norm": norms, **rows})

    def settle(self) -> None:
        """Bring into the state what is still on the device, for a checkpoint. Two host syncs."""
        self.count_refusals()
        self._state.unreported_steps, sums = self._means.held()
        self._state.unreported_sums = {name: str(value) for name, value in sums.items()}
