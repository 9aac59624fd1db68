"""Before the first step: whether all ranks run the same program with the same config on the same data.

A rank that was started with another learning rate, from an older checkout or on a half-copied data set trains along
without an error, and what comes out is of no run at all.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
import safetensors
import torch
import yaml

from recognition.config.loader import flatten
from recognition.config.schema import Config
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.feed.dataset import Dataset
from recognition.feed.datasets import open_dataset
from recognition.work.revision import PACKAGE

logger = logging.getLogger(__name__)

Facts = Mapping[str, Mapping[str, str]]
"""Section -> name -> value."""

_ADVICE = {
    "config": "start every rank with the same config and overrides",
    "data": "copy the same files to every node",
    "code": "deploy the same revision to every node",
    "package": "install the same versions on every node",
}
_SHOWN = 3


def preflight(config: Config, world: World) -> Dataset:
    """Open the data set of the run, compare with the other ranks what must be equal, and return it.

    Raises the same on every rank: the error of a rank that cannot open it, or ConfigError naming rank, value and
    expected value (that of rank 0) where config, data, code or torch differ. Other packages that differ are a warning.
    Collective: one gather.
    """
    opened: list[Dataset] = []

    def look() -> Facts:
        opened.append(open_dataset(config.data, needs_identities=config.head.weight > 0))
        return find_facts(config, opened[0])

    every = together(look, world)
    errors = list(differences(every, ("config", "data", "code"))) + [
        line for line in differences(every, ("package",)) if ": package torch: " in line
    ]
    if errors:
        more = f" (and {len(errors) - _SHOWN} more differences)" if len(errors) > _SHOWN else ""
        section = errors[0].split()[2]
        raise ConfigError(f"{'; '.join(errors[:_SHOWN])}{more}; {_ADVICE[section]}")
    for line in differences(every, ("package",)):
        logger.warning("%s; %s", line, _ADVICE["package"])
    return opened[0]


def find_facts(config: Config, dataset: Dataset) -> Facts:
    """Return what must be equal on all ranks, as this one sees it."""
    return {
        "config": {key: repr(value) for key, value in flatten(config).items()},
        "data": {key: str(value) for key, value in dataset.fingerprint().items()},
        "code": _code(),
        "package": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "cv2": cv2.__version__,
            "safetensors": safetensors.__version__,
            "yaml": yaml.__version__,
        },
    }


def differences(every: Sequence[Facts], sections: Sequence[str]) -> Iterator[str]:
    """Yield a line for each value of `sections` by which a rank differs from rank 0."""
    for section in sections:
        expected = every[0][section]
        for rank, facts in enumerate(every[1:], 1):
            found = facts[section]
            for name in sorted(expected.keys() | found.keys()):
                if found.get(name) != expected.get(name):
                    values = f"found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
                    yield f"rank {rank}: {section} {name}: {values} as on rank 0"


def _code() -> dict[str, str]:
    """Return the hash of every source file that a training runs."""
    return {
        path.relative_to(PACKAGE.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in PACKAGE.rglob("*.py")
        if path.is_file()
    }
