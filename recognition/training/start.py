"""Where a run begins: at step 0, or at the newest complete checkpoint of its folder; the same on all ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import cast

from recognition.backbones.run_weights import BEST_FILES, CHECKPOINTS, MODEL_FILES, RUN_WEIGHTS
from recognition.config.schema import Config
from recognition.distributed.checkpoint import Checkpoint, choose_checkpoint, list_checkpoints
from recognition.distributed.together import together
from recognition.distributed.world import World, declared_restart, launcher_name
from recognition.errors import ConfigError, DataError
from recognition.heads.products import Kind, resolve_products
from recognition.plan.run import with_global_batch
from recognition.training.run_folder import STATUS, FolderLock, RunStatus, lock_folder, read_status, write_status
from recognition.training.run_meta import DRAW, RunMeta
from recognition.work.files import remove_parts, write_text

logger = logging.getLogger(__name__)

_LAUNCHER = ".launcher"


def hold_folder(folder: Path, world: World, *, take_over: bool) -> FolderLock | None:
    """Make and lock the run folder for the life of this run; rank 0 gets the lock, the others None.

    Raises the DataError of `lock_folder` on every rank. Collective: one gather.
    """
    held: list[FolderLock] = []

    def hold() -> None:
        if world.is_main:
            held.append(lock_folder(folder, take_over=take_over))

    together(hold, world)
    return held[0] if held else None


def resumes(folder: Path, config: Config, world: World) -> bool:
    """Return whether the run continues in `folder`: because of `resume`, or started again by torchrun after a failure.

    Raises ConfigError on every rank when the folder holds a run that this one does not continue. Collective: one
    gather.
    """

    def decide() -> bool:
        if not world.is_main:
            return False
        if config.resume or _is_restart_of(folder):
            return True
        _refuse_other_run(folder)
        return False

    return together(decide, world)[0]


def prepare_folder(folder: Path, world: World, *, is_resumed: bool) -> None:
    """Bring the folder into the state in which a run begins or goes on, on rank 0; all ranks call it.

    What a killed run left is removed. A new run notes its launcher, so that the restarts know its checkpoints as their
    own, and that it has not ended. Raises the DataError of a disk that does not take that; a run that is resumed is
    only warned. Collective: one gather.
    """

    def prepare() -> None:
        if not world.is_main:
            return
        tidy(folder)
        try:
            if not is_resumed:
                for name in (*MODEL_FILES, *BEST_FILES):
                    (folder / name).unlink(missing_ok=True)  # of a run that was killed before its first step
                write_text(folder / _LAUNCHER, launcher_name() + "\n")
            before = _status(folder)
            if before.is_ended or not (folder / STATUS).is_file():
                write_status(folder, RunStatus(is_ended=False, step=before.step))
        except (OSError, DataError) as err:
            if not is_resumed:
                raise DataError(str(err)) from err
            logger.warning("%s; the run goes on", err)

    together(prepare, world)


def tidy(folder: Path) -> None:
    """Remove the temporary files that a killed run left in `folder`; one rank calls it, before anything is written."""
    for place in (folder, folder / CHECKPOINTS):
        try:
            remove_parts(place)
        except OSError as err:
            logger.warning("%s: what a killed run left cannot be removed (%s)", place, err.strerror or err)


def find_start(folder: Path, config: Config, world: World) -> tuple[Config, Checkpoint | None]:
    """Return the checkpoint to continue from, if any, and the config with the global batch it was trained with.

    Raises CheckpointError when there are checkpoints and none is complete.
    """
    checkpoint = choose_checkpoint(folder / CHECKPOINTS, world)
    if checkpoint is None:
        if together(lambda: _status(folder).is_ended, world)[0]:
            raise ConfigError(
                f"{folder}: holds a finished run and no checkpoint; expected one to resume from; correct output=..."
            )
        logger.info("resume: no checkpoint below %s yet, starting at step 0", folder)
        return config, None
    return hold_global_batch(config, checkpoint, world), checkpoint


def hold_global_batch(config: Config, checkpoint: Checkpoint, world: World) -> Config:
    """Return `config` with the images per rank that keep the checkpoint's global batch; refuse what does not divide."""
    images = RunMeta.of(checkpoint.meta, str(checkpoint.path)).global_batch
    try:
        held = with_global_batch(config, world.size, images)
    except ConfigError as err:
        raise ConfigError(f"{checkpoint.path}: {err}") from err
    if held.train.batch_size != config.train.batch_size:
        logger.info(
            "resume: train.batch_size is %d and not %d, to keep the global batch of %s on %d ranks",
            held.train.batch_size,
            config.train.batch_size,
            f"{images:,}",
            world.size,
        )
    return held


def hold_products(config: Config, checkpoint: Checkpoint | None, world: World) -> Config:
    """Return `config` with what head.products=auto means for this run: what it meant when it began, else here.

    Also says once where the classes that a resumed run samples are drawn by another rule than before.
    """
    meta = None if checkpoint is None else RunMeta.of(checkpoint.meta, str(checkpoint.path))
    if meta is not None and meta.draw != DRAW and config.head.sample_rate < 1:
        logger.info(
            "resume: the classes of a step are drawn by another rule than the one this run began with (see "
            "CHANGELOG.md): other classes, from the same distribution"
        )
    if config.head.products != "auto":
        return config
    kind: Kind = resolve_products("auto", world.device)
    if meta is not None:
        held = cast(Kind, meta.products or "float32")  # all that there was before a checkpoint said it
        if held != kind:
            logger.info("resume: head.products is %s, as when this run began, where auto would be %s", held, kind)
        kind = held
    return dataclasses.replace(config, head=dataclasses.replace(config.head, products=kind))


def _is_restart_of(folder: Path) -> bool:
    if declared_restart() == 0:
        return False
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / _LAUNCHER).read_text(encoding="utf-8").strip() == launcher_name()
    return False


def _status(folder: Path) -> RunStatus:
    return read_status(folder, has_weights=(folder / RUN_WEIGHTS).exists())


def _refuse_other_run(folder: Path) -> None:
    """Keep a run that someone may still want from being overwritten by a second one of the same name."""
    status = _status(folder)
    if status.is_ended:
        found = "a finished run"
    elif list_checkpoints(folder / CHECKPOINTS):
        found = "the checkpoints of a run"
    elif status.step > 0:
        found = "the weights of a run"
    else:
        return
    raise ConfigError(f"{folder}: holds {found}; expected a new folder; set output=..., continue it with resume=true")
