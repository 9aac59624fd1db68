"""Which of the files a run reads are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recognition.config.schema import Config
from recognition.errors import ConfigError
from recognition.formats.sources import is_beside_data, is_there, named_paths, near_path
from recognition.verification.validators import find_targets

EXPECTED_DATA = "a .rec, its path without suffix, or a folder with train.rec or of identity folders"


@dataclass(frozen=True)
class Inputs:
    """The data and the verification sets a config names, found or not."""

    data: str
    """What `data.rec` names, and whether it exists."""
    has_data: bool
    validation: Mapping[str, Path]
    """Verification set -> its file or folder, there or not."""

    @property
    def missing_validation(self) -> list[str]:
        """Names of the sets that do not exist."""
        return [name for name, path in self.validation.items() if not path.exists()]


def find_inputs(config: Config) -> Inputs:
    """Look for the config's data and verification sets, opening neither.

    Raises ConfigError when the data are there and a verification set is not: such a run would train unseen. And when
    `data.rec` looks mistyped: a part of the data is there, or something else where they should be.
    """
    rec = config.data.rec
    validation = {name: target.path for name, target in find_targets(config).items()}
    if rec is None:
        inputs = Inputs("data.rec is not set", False, validation)
    elif rec == "synthetic":
        inputs = Inputs("synthetic", True, validation)
    else:
        paths = named_paths([rec, *config.data.more_rec])
        absent = [path for path in paths if not is_there(path)]
        _refuse_mistyped(absent, is_all=len(absent) == len(paths))
        named = " + ".join([rec, *config.data.more_rec])
        inputs = Inputs(f"{named}{' (absent)' if absent else ''}", not absent, validation)
    if inputs.has_data and inputs.missing_validation:
        name = inputs.missing_validation[0]
        raise ConfigError(
            f"validation.val_targets: {name!r} has no file; expected {inputs.validation[name]}; set "
            "validation.val_dir, or leave the name out"
        )
    return inputs


def _refuse_mistyped(absent: Sequence[Path], *, is_all: bool) -> None:
    """Raise ConfigError for a path that is wrong, and not of a machine that has no data yet."""
    for path in absent:
        near = near_path(path)
        hint = "correct it" if near is None else f"did you mean {str(near)!r}?"
        if near is not None or not is_all or is_beside_data(path):
            found = "there is no such file or folder" if is_all else "is absent, while other sets are there"
            raise ConfigError(f"data.rec: {str(path)!r}: {found}; expected {EXPECTED_DATA}; {hint}")
