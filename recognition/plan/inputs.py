"""Which of the files a run reads are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recognition.config.schema import Config
from recognition.errors import ConfigError


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
        path = Path(rec).expanduser()
        is_there = path.exists() or Path(f"{path}.rec").is_file()
        inputs = Inputs(f"{rec}{'' if is_there else ' (absent)'}", is_there, validation_paths(config))
    if inputs.has_data and inputs.missing_validation:
        name = inputs.missing_validation[0]
        raise ConfigError(
            f"validation.val_targets: {name!r} has no file {inputs.validation[name]}; set validation.val_dir, "
            "or leave the name out"
        )
    return inputs


def validation_paths(config: Config) -> dict[str, Path]:
    """Return where each verification set is expected: `<val_dir, or the data folder>/<name>.bin`."""
    folder = config.validation.val_dir or config.data.rec
    if folder is None or (folder == "synthetic" and config.validation.val_targets and not config.validation.val_dir):
        if config.validation.val_targets:
            raise ConfigError("validation.val_dir: not set, and data.rec is no folder; say where the .bin files are")
        return {}
    root = Path(folder).expanduser()
    if not config.validation.val_dir and not root.is_dir() and (root.suffix == ".rec" or Path(f"{root}.rec").is_file()):
        root = root.parent
    return {name: root / f"{name}.bin" for name in config.validation.val_targets}
