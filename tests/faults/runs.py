"""The trainings that are disturbed, and the undisturbed run that each must end as."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recognition.work.files import write_text
from tests.faults.compare import last_step
from tests.faults.inputs import GLOBAL_BATCH, STEPS_PER_EPOCH, make_inputs
from tests.faults.launch import Job

EPOCHS = 3
STEPS = EPOCHS * STEPS_PER_EPOCH
SAVE_EVERY = 4
VALIDATE_EVERY = 10
_COMMON = {
    "device": "cpu",
    "data.image_size": "32",
    "data.num_workers": "0",
    "backbone.network": "tiny",
    "backbone.embedding_size": "16",
    "head.scale": "16",
    "optim.lr": "0.02",
    "train.precision": "off",
    "train.num_epoch": str(EPOCHS),
    "validation.val_targets": "[pairs]",
    "validation.every_steps": str(VALIDATE_EVERY),
    "checkpoint.every_steps": str(SAVE_EVERY),
    "checkpoint.keep": "2",
    "log.every_steps": "1",
    "log.tensorboard": "false",
}
VARIANTS: dict[str, dict[str, str]] = {
    "fused": {},
    "sync_bn, deferred": {"backbone.sync_bn": "true", "head.update": "deferred"},
    "int8 momentum, adamw": {"head.momentum_format": "int8", "optim.optimizer": "adamw", "optim.lr": "0.002"},
    "sampled, bf16": {
        "head.sample_rate": "0.75",
        "head.centers_format": "bf16",
        "head.momentum_format": "bf16",
        "augment.preset": "arcface_dali",
    },
    "autograd, accumulation": {"head.update": "autograd", "train.gradient_accumulation": "2"},
    "loader processes": {"data.num_workers": "1"},
}


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its folder, and how long it took to its first report and to its end."""

    run: Path
    start_s: float
    total_s: float


@dataclass
class Lab:
    """The folder of a series of jobs: their data, the reference runs (made once), and a place for each job."""

    folder: Path
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def inputs(self) -> Path:
        """Where the data are; made at the first asking."""
        target = self.folder / "inputs"
        with self._lock("inputs"):
            if not target.exists():
                aside = self.folder / ".inputs"
                shutil.rmtree(aside, ignore_errors=True)
                make_inputs(aside)
                aside.rename(target)
        return target

    def settings(self, variant: str = "fused", *, ranks: int, **changed: str) -> list[str]:
        """Return the KEY=VALUE arguments of a job; `changed` spells a dot as two underscores."""
        values = {"data.rec": str(self.inputs / "set"), **_COMMON, **VARIANTS[variant]}
        accumulation = int(values.get("train.gradient_accumulation", "1"))
        values["train.batch_size"] = str(GLOBAL_BATCH // ranks // accumulation)
        values |= {key.replace("__", "."): value for key, value in changed.items()}
        return [f"{key}={value}" for key, value in values.items()]

    def place(self, key: str) -> Path:
        """Return an empty folder for the job of this name."""
        place = self.folder / "jobs" / key.replace(" ", "_")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def reference(self, variant: str, ranks: int) -> Reference:
        """Return the undisturbed run of this kind, and make it at the first asking."""
        name = f"{variant.replace(', ', '_').replace(' ', '_')}_{ranks}"
        times = self.folder / "references" / f"{name}.json"
        with self._lock(name):
            if not times.exists():
                self._train(name, times, self.settings(variant, ranks=ranks), ranks)
        known = json.loads(times.read_text())
        return Reference(times.with_suffix("") / "run", known["start_s"], known["total_s"])

    def _train(self, name: str, times: Path, settings: Sequence[str], ranks: int) -> None:
        shutil.rmtree(times.with_suffix(""), ignore_errors=True)
        with Job(times.with_suffix(""), settings, ranks=ranks) as job:
            job.wait_for(job.rank_pids, "the ranks")
            launched_s = job.seconds
            job.wait_for(lambda: last_step(job.run) >= 1, "step 1")
            start_s = job.seconds - launched_s
            ended = job.end()
            assert ended.status == 0 and not ended.left_behind, f"the undisturbed {name}: {ended}\n{job.said(0)}"
        write_text(times, json.dumps({"start_s": start_s, "total_s": ended.seconds - launched_s}))

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())
