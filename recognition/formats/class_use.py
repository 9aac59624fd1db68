"""How many classes the labels of a set need, how many of them have an image, and what to say when these differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recognition.console import count

_FEW = 100  # one label in so many may be damage, or a single one


@dataclass(frozen=True)
class ClassUse:
    """What the labels of a set say of its classes."""

    num_needed: int
    """The highest class id plus one."""
    num_used: int
    """Different class ids."""
    num_likely: int
    """As num_needed, without the few class ids that are larger than the number of images: those may be damage."""

    @classmethod
    def of(cls, labels: npt.NDArray[np.int64], num_images: int) -> ClassUse:
        """Count the class ids among `labels`, of which negative ones could not be read, of a set of `num_images`."""
        used, times = np.unique(labels[labels >= 0], return_counts=True)
        is_far = used >= num_images
        likely = used[~is_far] if times[is_far].sum() <= max(1, len(labels) // _FEW) else used
        return cls(_above(used), len(used), _above(likely))


def class_warning(num_classes: int, num_used: int, *, source: str, is_one_set: bool = True) -> str | None:
    """Return what to tell of empty classes, or of a single one, None where each of several classes has an image.

    `source` is how commands name the set, or the sets that are trained on together.
    """
    if num_used == num_classes and num_classes > 1:
        return None
    empty = num_classes - num_used
    have = "has an image" if num_used == 1 else "have an image"
    found = f"{source}: {num_used:,} of {count(num_classes, 'class')} {have}"
    parts = []
    if num_used < 2:
        parts.append("one person has nobody to be told from, and the loss is 0 from the start: add people")
    if empty:
        merged = source if is_one_set else "MERGED/"
        first = "" if is_one_set else f"python -m recognition merge_rec {source} MERGED/, then "
        parts.append(
            f"the {empty:,} without one take memory and teach nothing; to renumber: {first}python -m recognition "
            f"convert_rec {merged} OUT/ --to insightface --renumber"
        )
    return "; ".join([found, *parts])


def _above(used: npt.NDArray[np.int64]) -> int:
    return int(used[-1]) + 1 if len(used) else 0
