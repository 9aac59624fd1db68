"""Which of the files a run reads are there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recognition.config.schema import Config
from recognition.errors import ConfigError
from recognition.formats.sources import companions_folder, is_there, named_paths


@dataclass(frozen=True)
class Inputs:
    """The data and the verification sets a config names, found or not."""

    data: str
    """What `data.rec` names, and whether it exists."""
    has_data: bool
    validation: Mapping[str, Path]
    """Verification set -> its .bin file, there or not."""

    @property
    def missing_validation(self) -> list[str]:
        """Names of the sets whose file does not exist."""
        return [name for name, path in self.validation.items() if not path.is_file()]


def find_inputs(config: Config) -> Inputs:
    """Look for the config's data and verification sets, opening neither.

    Raises ConfigError when the data are there and a verification set is not: such a run would train unseen.
    """
    rec = config.data.rec
    if rec is None:
        inputs = Inputs("data.rec is not set", False, validation_paths(config))
    elif rec == "synthetic":
        inputs = Inputs("synthetic", True, validation_paths(config))
    else:
        absent = [path for path in named_paths([rec, *config.data.more_rec]) if not is_there(path)]
        named = " + ".join([rec, *config.data.more_rec])
        inputs = Inputs(f"{named}{' (absent)' if absent else ''}", not absent, validation_paths(config))
    if inputs.has_data and inputs.missing_validation:
        name = inputs.missing_validation[0]
        raise ConfigError(
            f"validation.val_targets: {name!r} has no file; expected {inputs.validation[name]}; set "
            "validation.val_dir, or leave the name out"
        )
    return inputs


def validation_paths(config: Config) -> dict[str, Path]:
    """Return the file of each verification set by name: a target that ends in .bin, else `<folder>/<target>.bin`.

    The folder is validation.val_dir, or that of the data.
    """
    paths: dict[str, Path] = {}
    for target in config.validation.val_targets:
        is_file = target.endswith(".bin")
        path = Path(os.path.expanduser(target)) if is_file else _validation_folder(config) / f"{target}.bin"
        if path.stem in paths:
            raise ConfigError(
                f"validation.val_targets: {target!r} and {str(paths[path.stem])!r} are both named {path.stem!r}; "
                "expected distinct names; rename one file"
            )
        paths[path.stem] = path
    return paths


def _validation_folder(config: Config) -> Path:
    if config.validation.val_dir is not None:
        return Path(os.path.expanduser(config.validation.val_dir))
    if config.data.rec in (None, "synthetic"):
        raise ConfigError(
            f"validation.val_dir: not stated, and data.rec is {config.data.rec!r}; "
            "expected the folder of the .bin files; set validation.val_dir"
        )
    return companions_folder(Path(os.path.expanduser(str(config.data.rec))))
