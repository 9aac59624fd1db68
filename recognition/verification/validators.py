"""Validators by the form of their target, and those that a run's config asks for.

A target of `validation.val_targets` is `FORM:WHERE`, such as a folder; without a form it is a set of pairs, by its name
or by the path of its .bin.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recognition.config.schema import Config
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.errors import ConfigError, DataError
from recognition.formats.sources import companions_folder
from recognition.registry import Registry
from recognition.verification.protocols import Embed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a validator found out about a model."""

    score: float
    """The one number that models are compared by: the higher the better, finite."""
    values: Mapping[str, float]
    """Name -> number, for the log and its curves."""
    line: str
    """The result for a person, such as "accuracy 0.9950 ± 0.0031"."""


class Validator(Protocol):
    """Judges a model on one set; every rank holds one, with its share of the images."""

    @property
    def fingerprint(self) -> str:
        """Of the files it was opened from; it must be equal on all ranks."""

    def advice(self) -> str | None:
        """Return what a user should know of the set before the first step, else None."""

    def run(self, embed: Embed) -> Report:
        """Judge the model behind `embed`; all ranks call this together and get the same report.

        `embed` is given at most `Setting.batch_size` images at a time; an error on one rank is raised on all.
        """


@dataclass(frozen=True)
class Setting:
    """What a validator is opened with."""

    name: str
    """By which its numbers are logged."""
    path: Path
    image_size: int
    batch_size: int
    world: World
    quiet: bool
    """No progress is shown: on every rank but the first, too."""


class Form(Protocol):
    """A kind of targets: what is registered."""

    def locate(self, where: str, config: Config) -> tuple[str, Path]:
        """Return name and path of the target whose text without the form is `where`; nothing is opened."""

    def open(self, setting: Setting) -> Validator:
        """Read this rank's share; DataError for damaged files. It is not a collective."""


VALIDATORS: Registry[type[Form]] = Registry("form of validation.val_targets")
"""What is written before the colon -> form. "pairs" may be left out."""

VALIDATORS.register_at("pairs", "recognition.verification.pair_validator:Pairs")


@dataclass(frozen=True)
class Target:
    """A verification set that a config names, there or not."""

    name: str
    path: Path
    form: str


def find_targets(config: Config) -> dict[str, Target]:
    """Return the config's verification sets by name, without opening one; ConfigError when two have one name."""
    targets: dict[str, Target] = {}
    for text in config.validation.val_targets:
        form, where = _split(text)
        name, path = VALIDATORS[form]().locate(where, config)
        if name in targets:
            raise ConfigError(
                f"validation.val_targets: {text!r} and {str(targets[name].path)!r} are both named {name!r}; "
                "expected distinct names; rename one file"
            )
        targets[name] = Target(name, path, form)
    return targets


def validation_folder(config: Config) -> Path:
    """Return where sets named without a folder are: validation.val_dir, else the folder of the data."""
    if config.validation.val_dir is not None:
        return Path(os.path.expanduser(config.validation.val_dir))
    if config.data.rec in (None, "synthetic"):
        raise ConfigError(
            f"validation.val_dir: not stated, and data.rec is {config.data.rec!r}; "
            "expected the folder of the .bin files; set validation.val_dir"
        )
    return companions_folder(Path(os.path.expanduser(str(config.data.rec))))


def build_validators(config: Config, world: World, *, quiet: bool = False) -> dict[str, Validator]:
    """Open every set of `validation.val_targets` and return its validator by name; all ranks call this together.

    Rank 0 shows how far it is with its own share, unless `quiet`.
    Raises ConfigError for a missing set and DataError for a damaged one, on all ranks, before training begins.
    """
    targets = find_targets(config)
    validators: dict[str, Validator] = {}

    def open_all() -> dict[str, str]:
        for name, target in targets.items():
            if not target.path.exists():
                raise ConfigError(
                    f"validation.val_targets: {target.path}: missing; expected the verification set {name!r}; "
                    "correct validation.val_dir or remove the target"
                )
            setting = Setting(
                name=name,
                path=target.path,
                image_size=config.data.image_size,
                batch_size=config.validation.batch_size,
                world=world,
                quiet=quiet or not world.is_main,
            )
            validators[name] = VALIDATORS[target.form]().open(setting)
        return {name: validator.fingerprint for name, validator in validators.items()}

    for rank, fingerprints in enumerate(together(open_all, world)):
        for name, fingerprint in fingerprints.items():
            if fingerprint != validators[name].fingerprint:
                raise DataError(
                    f"{targets[name].path}: ranks {rank} and {world.rank} see different files; expected one and the "
                    "same; copy it to every node"
                )
    for validator in validators.values():
        advice = validator.advice()
        if advice and world.is_main:
            logger.warning("%s", advice)
    return validators


def _split(text: str) -> tuple[str, str]:
    form, colon, where = text.partition(":")
    if not colon or text.endswith(".bin") or os.sep in form:
        return "pairs", text
    return form, where
