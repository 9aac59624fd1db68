"""AgeDB's lists, a MATLAB file for each gap of years: ten splits of names and of labels 1 and -1. Torch-free.

The form of the gap of 30 years is known; that of 5, 10 and 20 is said to be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recognition.errors import DataError
from recognition.formats.matlab import read_matlab
from recognition.formats.pair_layouts import NUM_FOLDS
from recognition.formats.pair_list import PicturePair, alternating

_DEEPEST = 8


class AgeDb:
    """A `.mat` with the key `splits`."""

    def fits(self, path: Path, head: Sequence[str]) -> bool:
        """Return whether a path ends in .mat."""
        return path.suffix.lower() == ".mat"

    def read(self, path: Path) -> list[PicturePair]:
        """Return the pairs of the ten splits; the names are those of images, without .jpg."""
        splits = read_matlab(path).get("splits")
        if splits is None or not isinstance(splits, np.ndarray) or splits.size != NUM_FOLDS:
            found = "no `splits`" if splits is None else f"{np.size(splits)} splits"
            raise DataError(f"{path}: holds {found}; expected {NUM_FOLDS} splits of pairs; fetch the file again")
        pairs: list[PicturePair] = []
        for fold, split in enumerate(splits.reshape(-1), 1):
            names, labels = _parts(split, f"{path}: split {fold}")
            members = []
            for i, label in enumerate(labels):
                first, second = (_name(names[side, i], f"{path}: split {fold}: pair {i + 1}") for side in (0, 1))
                if label not in (1, -1):
                    raise DataError(f"{path}: split {fold}: pair {i + 1}: label {label}; expected 1 or -1; fix it")
                shown = (_person(first), _person(second))
                members.append(PicturePair(f"{first}.jpg", f"{second}.jpg", bool(label == 1), fold, shown=shown))
            pairs += alternating(members)
        return pairs


def _parts(split: Any, place: str) -> tuple[np.ndarray, list[float]]:
    """Return the names [2, n] and the labels of a split: the two fields of the one record in it."""
    for _ in range(_DEEPEST):
        if isinstance(split, np.void) and len(split.dtype.names or ()) >= 2:
            names, labels = split[0], np.asarray(split[1]).reshape(-1)
            if (
                isinstance(names, np.ndarray)
                and names.ndim == 2
                and names.shape[0] == 2
                and len(labels) == names.shape[1]
                and labels.dtype.kind in "iuf"
            ):
                return names, labels.tolist()
            break
        if not (isinstance(split, np.ndarray) and split.size == 1):
            break
        split = split.reshape(-1)[0]
    raise DataError(f"{place}: no cell of 2 x n names with n labels; expected one; fetch the file again")


def _name(value: Any, place: str) -> str:
    """Return the text in nested arrays of one entry."""
    for _ in range(_DEEPEST):
        if isinstance(value, str):
            return value
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        elif isinstance(value, np.void) and len(value.dtype.names or ()) == 1:
            value = value[0]
        else:
            break
    raise DataError(f"{place}: no name of an image; expected a text; fetch the file again")


def _person(name: str) -> str:
    """Return the name in `<number>_<Name>_<age>_<m or f>`."""
    parts = name.split("_")
    return "_".join(parts[1:-2]) if len(parts) >= 4 else ""
