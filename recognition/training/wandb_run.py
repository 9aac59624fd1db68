"""Weights & Biases, for those who ask for it: one run, from rank 0, with the key that the environment holds."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recognition.config.fields import flatten
from recognition.config.schema import Config
from recognition.errors import ArcShardError, ConfigError
from recognition.work.files import write_text

logger = logging.getLogger(__name__)

_ID_FILE = "wandb_run.txt"
_WITHOUT_KEY = ("offline", "disabled", "dryrun")


def require_wandb(config: Config, environment: Mapping[str, str]) -> None:
    """Raise ConfigError when `log.wandb` asks for what this machine cannot do: no package, or no key for it."""
    if config.log.wandb is None:
        return
    spec = importlib.util.find_spec("wandb")
    if spec is None or spec.origin is None:  # a bare folder of that name, such as the package itself leaves behind
        raise ConfigError(
            f"log.wandb: found {config.log.wandb!r}, but the wandb package is not installed; pip install wandb, or set "
            "log.wandb=null"
        )
    if not environment.get("WANDB_API_KEY") and environment.get("WANDB_MODE") not in _WITHOUT_KEY:
        raise ConfigError(
            f"log.wandb: found {config.log.wandb!r}, but WANDB_API_KEY is not set; export it, set WANDB_MODE=offline, "
            "or set log.wandb=null"
        )


class WandbRun:
    """An open W&B run; a resumed training continues in the one that its folder names.

    Whatever goes wrong once it is open is warned of, and counted, and ends no training.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        self.num_failed = 0
        known = folder / _ID_FILE
        try:
            self._run = self._wandb.init(
                project=config.log.wandb,
                name=folder.resolve().name,
                dir=str(folder),
                config=flatten(config),
                id=_read_id(known) if config.resume else None,
                resume="allow",
            )
        except (self._wandb.Error, OSError) as err:
            reason = str(err).strip().partition("\n")[0]
            raise ConfigError(
                f"log.wandb: {config.log.wandb!r} cannot be written to ({reason}); check WANDB_API_KEY and the "
                "project, or set log.wandb=null"
            ) from err
        try:
            write_text(known, f"{self._run.id}\n")
        except ArcShardError as err:
            logger.warning("%s; a resumed run would begin another", err)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Send scalars by name, and arrays as histograms."""
        sent = {
            name: value if isinstance(value, (int, float)) else self._wandb.Histogram(value)
            for name, value in values.items()
        }
        self._try(lambda: self._run.log(sent, step=step))

    def close(self) -> None:
        """Send what is left."""
        self._try(self._run.finish)
        if self.num_failed:
            logger.warning("log.wandb: %d of its records were not taken", self.num_failed)

    def _try(self, send: Callable[[], Any]) -> None:
        try:
            send()
        except Exception as err:  # its own errors, its process's pipes, the disk's: they have no common class
            self.num_failed += 1
            if self.num_failed == 1:
                reason = str(err).strip().partition("\n")[0]
                logger.warning("log.wandb: takes no record (%s: %s); the run goes on", type(err).__name__, reason)


def _read_id(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
