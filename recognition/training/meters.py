"""What a run reports about itself: a log line, a JSON line, TensorBoard scalars and histograms per report."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from recognition.console import duration, rate, size
from recognition.errors import DataError
from recognition.training.event_file import EventFile
from recognition.training.wandb_run import WandbRun
from recognition.work.append import AppendedFile, LogFile
from recognition.work.files import write_bytes
from recognition.work.system import peak_resident_bytes

logger = logging.getLogger(__name__)


class DeviceMeans:
    """Means of device scalars over the steps between two reports, without a host sync per step."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Add one step's 0-dim tensors."""
        for name, value in values.items():
            held = self._sums.get(name)
            self._sums[name] = value.detach().float().clone() if held is None else held + value.detach().float()
        self._steps += 1

    def drain(self) -> dict[str, float]:
        """Return the means and start over. One host sync for all of them."""
        if not self._sums:
            return {}
        names = list(self._sums)
        means = (torch.stack([self._sums[name] for name in names]) / self._steps).tolist()
        self._sums.clear()
        self._steps = 0
        return dict(zip(names, means))

    def held(self) -> tuple[int, dict[str, float]]:
        """Return how many steps were added and the sums over them. One host sync."""
        sums = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        return self._steps, dict(zip(self._sums, sums))

    def hold(self, steps: int, sums: Mapping[str, float], device: torch.device) -> None:
        """Go on from what `held` gave."""
        self._steps = steps
        self._sums = {name: torch.tensor(value, dtype=torch.float32, device=device) for name, value in sums.items()}


class Throughput:
    """Images per second and the share of time spent waiting for data, between two reports."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start a new window."""
        self._start = time.perf_counter()
        self._images = 0
        self._steps = 0
        self._waited_s = 0.0

    def add(self, images: int, waited_s: float) -> None:
        """Add one step of `images` over all ranks that waited `waited_s` for its batch."""
        self._images += images
        self._steps += 1
        self._waited_s += waited_s

    def drain(self) -> dict[str, float]:
        """Return img_per_s, step_s and data_wait (a share in [0, 1]) and start a new window."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        result = {
            "img_per_s": self._images / elapsed,
            "step_s": elapsed / max(1, self._steps),
            "data_wait": min(1.0, self._waited_s / elapsed),
        }
        self.restart()
        return result


class RunLog:
    """Rank 0's records of a run: metrics.jsonl, TensorBoard and perhaps W&B; silent on the other ranks.

    Records of steps after `step`, where the run goes on, are those of a run that was cut off: they are taken out, so
    that each curve is that of a run that was never disturbed. A disk that takes no record ends nothing.
    """

    def __init__(
        self, folder: Path, *, is_main: bool, tensorboard: bool, wandb: WandbRun | None = None, step: int = -1
    ) -> None:
        self._jsonl: AppendedFile | None = None
        self._board: EventFile | None = None
        self._wandb = wandb
        if not is_main:
            return
        path = folder / "metrics.jsonl"
        try:
            cut_records(path, step)
        except (OSError, DataError) as err:
            logger.warning("%s: the records after step %d cannot be taken out (%s)", path, step, err)
        self._jsonl = AppendedFile(path, separator=b"\n")
        if tensorboard:
            self._board = EventFile(folder / "tensorboard", first_step=step + 1)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Record `values` at `step` under `kind` ("train" or the name of a validation set)."""
        if self._jsonl is not None:
            # JSON has no NaN, and the mean over a refused step is one.
            known = {name: value if math.isfinite(value) else None for name, value in values.items()}
            line = json.dumps({"step": step, "kind": kind, **known}, allow_nan=False)
            self._jsonl.write(line.encode() + b"\n")
        named = {f"{kind}/{name}": value for name, value in values.items()}
        if self._board is not None:
            self._board.scalars(step, named)
        if self._wandb is not None:
            self._wandb.write(step, named)

    @property
    def draws(self) -> bool:
        """Whether anyone looks at histograms."""
        return self._board is not None or self._wandb is not None

    def histograms(self, step: int, values: Mapping[str, torch.Tensor]) -> None:
        """Record the distribution of each tensor; non-finite entries, and then empty ones, are left out.

        One copy to the host for all of them.
        """
        flat = torch.cat([value.detach().flatten().float() for value in values.values()]).cpu()
        parts = flat.split([value.numel() for value in values.values()])
        arrays = {f"train/{name}": part[part.isfinite()].numpy() for name, part in zip(values, parts)}
        arrays = {name: array for name, array in arrays.items() if array.size}
        if self._board is not None:
            self._board.histograms(step, arrays)
        if self._wandb is not None:
            self._wandb.write(step, arrays)

    def close(self) -> None:
        """Flush and close all."""
        if self._jsonl is not None:
            self._jsonl.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.close()


def cut_records(path: Path, step: int) -> None:
    """Keep the whole records up to `step` in the JSON lines at `path`, if there are any.

    It needs no room on the disk where what goes is at the end, as in the file of one run. Raises OSError, DataError.
    """
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if lines[: len(kept)] != kept:
        write_bytes(path, b"".join(kept))
    elif len(kept) < len(lines):
        os.truncate(path, sum(map(len, kept)))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf  # cut short by a kill


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak of the GPU's allocations, or on a CPU the peak resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def report_line(step: int, total_steps: int, epoch: int, values: dict[str, float]) -> str:
    """Return the line a person reads; fixed order, with units."""
    eta = duration((total_steps - step) * values["step_s"])
    parts = [
        f"step {step:,}/{total_steps:,}",
        f"epoch {epoch}",
        f"loss {values['loss']:.4f}",
        *([f"top-1 {values['top1']:.3f}"] if "top1" in values else []),
        *([f"teacher {values['teacher_cosine']:.3f}"] if "teacher_cosine" in values else []),
        f"lr {values['lr']:.5f}",
        f"{rate(values['img_per_s'], 1).replace('/s', ' img/s')}",
        f"data wait {values['data_wait']:.0%}",
        f"mem {size(values['memory_bytes'])}",
        f"eta {eta}",
    ]
    if values.get("scale", 1.0) != 1.0:
        parts.append(f"scale {values['scale']:.0f}")
    if values["refused"]:
        parts.append(f"refused {values['refused']:.0f}")
    if values.get("bad_records"):
        parts.append(f"bad records {values['bad_records']:.0f}")
    return "  ".join(parts)


def attach_log_files(folder: Path, *, rank: int, is_main: bool, quiet: bool) -> None:
    """Send this rank's records to logs/rank<k>.log, rank 0's also to train.log, and to stderr what people should see.

    Rank 0 informs; the others speak on stderr only from warnings on.
    """
    root = logging.getLogger()
    for handler in root.handlers:
        handler.setLevel(logging.INFO if is_main and not quiet else logging.WARNING)
    root.setLevel(logging.INFO)
    names = [folder / "logs" / f"rank{rank}.log"] + ([folder / "train.log"] if is_main else [])
    for name in names:
        handler = LogFile(name)
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s rank {rank}: %(message)s"))
        root.addHandler(handler)
    logger.debug("logging of process %d to %s", os.getpid(), folder)
