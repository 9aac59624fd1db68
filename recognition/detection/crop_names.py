"""What the crops of photos are called. Torch-free."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence

from recognition.detection.choice import Policy
from recognition.errors import DataError

_LONGEST_NAME = 240  # bytes: most file systems take 255, and a further face's name is longer
_FURTHER_FACE = re.compile(r"(.*)\.face[1-9][0-9]*(\.[^./]*)", re.DOTALL)


def crop_names(photos: Sequence[str], policy: Policy = "largest") -> dict[str, str]:
    """Return photo -> crop: the same name when it ends in .jpg or .jpeg, and with .jpg after it otherwise.

    Raises DataError when a name is too long for a file, and when two photos would give one; with the policy all,
    further faces have names of their own.
    """
    names = {p: p if os.path.splitext(p)[1].lower() in (".jpg", ".jpeg") else f"{p}.jpg" for p in photos}
    owners = Counter(names.values())
    if policy == "all":
        further = (match for name in list(owners) if (match := _FURTHER_FACE.fullmatch(name)))
        owners.update(match[0] for match in further if match[1] + match[2] in owners)
    twice = next((name for name, times in owners.items() if times > 1), None)
    long = next((name for name in owners if len(os.fsencode(os.path.basename(name))) > _LONGEST_NAME), None)
    if long is not None:
        raise DataError(f"{long}: a crop's name; expected at most {_LONGEST_NAME} bytes; rename the photo")
    if twice is not None:
        raise DataError(f"{twice}: would be the crop of two photos; expected names that differ; rename one photo")
    return names


def crop_name(name: str, number: int) -> str:
    """Return the name of a photo's crop: the photo's own for the first face, `.face1` and so on for further ones."""
    stem, suffix = os.path.splitext(name)
    return name if number == 0 else f"{stem}.face{number}{suffix}"
