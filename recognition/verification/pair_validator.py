"""Verification on packed pairs during training, shared out over the ranks.

Each rank keeps the encoded images of its own share, embeds them with the model in training, and all ranks exchange the
embeddings and compute the same numbers.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recognition.config.schema import Config
from recognition.console import progress
from recognition.distributed.shards import class_range
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.verification.protocols import (
    Embed,
    Indices,
    PairSet,
    VerificationResult,
    chance_warning,
    count_broken,
    distinct_images,
    embedded_rows,
    open_pair_set,
    order_warning,
    verify_embeddings,
)
from recognition.verification.sorted_scores import tar_name
from recognition.verification.validators import Report, Setting, validation_folder

logger = logging.getLogger(__name__)

FOLDS = 10
"""What the field reports; `verify.py` takes other numbers."""


class Pairs:
    """The form of targets such as `lfw` or `sets/lfw.bin`: a .bin of pairs."""

    def locate(self, where: str, config: Config) -> tuple[str, Path]:
        """Return the .bin that a name or a path means, with or without its suffix; the name is the file's.

        A name is looked for in the folder of the verification sets first, a path as it is first.
        """
        has_suffix = where.lower().endswith(".bin")
        path = Path(os.path.expanduser(where if has_suffix else f"{where}.bin"))
        is_name = len(path.parts) == 1
        try:
            below = validation_folder(config) / path
        except ConfigError:
            if is_name and not has_suffix:
                raise
            return path.stem, path
        order = (path, below) if not is_name else (below, path) if has_suffix else (below,)
        return path.stem, next((place for place in order if place.is_file()), order[0])

    def open(self, setting: Setting) -> PairValidator:
        """Read the set and keep this rank's share of its distinct pictures."""
        pair_set = open_pair_set(setting.path, name=setting.name, folds=FOLDS)
        firsts, members = distinct_images(pair_set.images)
        share = class_range(len(firsts), setting.world.rank, setting.world.size)  # the same even split, of pictures
        numbers = firsts[share.start : share.stop]
        return PairValidator(
            pair_set=replace(pair_set, images=[pair_set.images[number] for number in numbers]),
            numbers=numbers,
            members=members,
            image_size=setting.image_size,
            batch_size=setting.batch_size,
            world=setting.world,
            quiet=setting.quiet,
        )


@dataclass(frozen=True, eq=False)
class PairValidator:
    """Verifies the model on one set; every rank calls it at the same point and gets the same numbers."""

    pair_set: PairSet
    """With this rank's images only; the flags are those of all pairs."""
    numbers: list[int]
    """The places of this rank's images in the file."""
    members: Indices
    """Which of all ranks' images each of the set's images is [2n]."""
    image_size: int
    batch_size: int
    world: World
    quiet: bool = True

    @property
    def fingerprint(self) -> str:
        """The checksum of the .bin."""
        return self.pair_set.sha256

    def advice(self) -> str | None:
        """Return what to do when folds hold one kind of pairs only."""
        return order_warning(self.pair_set, FOLDS)

    def run(self, embed: Embed) -> Report:
        """Report accuracy, std, thresholds, TAR at FAR, AUC, EER and the mean length of the embeddings.

        `embed` is given at most `batch_size` images at a time, and is not called on a rank without images. An error on
        one rank is raised on all.
        """
        shares = together(lambda: self._embed_share(embed), self.world)
        embeddings = np.concatenate([share for share in shares if len(share)])
        broken = count_broken(embeddings)
        if broken:
            # A deep network overflows before its BatchNorm has statistics; that must not end a run at step 0.
            embeddings = np.where(np.isfinite(embeddings).all(axis=1, keepdims=True), embeddings, 0.0)
            self._warn(f"{self.pair_set.name}: {broken} of {len(embeddings)} embeddings are not finite; taken as zeros")
        result = verify_embeddings(self.pair_set, embeddings[self.members], folds=FOLDS)
        warning = chance_warning(result)
        if warning:
            self._warn(warning)
        return Report(
            score=result.accuracy,
            values=result_values(result),
            line=f"accuracy {result.accuracy:.4f} ± {result.std:.4f}",
        )

    def _embed_share(self, embed: Embed) -> npt.NDArray[np.float32]:
        rows = embedded_rows(
            embed,
            self.pair_set.images,
            image_size=self.image_size,
            batch_size=self.batch_size,
            place=str(self.pair_set.path),
            numbers=self.numbers,
        )
        shown = progress(
            rows, total=len(self.pair_set.images), unit="image", label=self.pair_set.name, quiet=self.quiet
        )
        return np.array(list(shown), dtype=np.float32)

    def _warn(self, message: str) -> None:
        if self.world.is_main:
            logger.warning("%s", message)


def result_values(result: VerificationResult) -> dict[str, float]:
    """Return the numbers of a result under the names they are logged by."""
    values = {
        "accuracy": result.accuracy,
        "std": result.std,
        "threshold_cosine": result.threshold_cosine,
        "threshold_l2": result.threshold_l2,
        **{tar_name(point.target): point.tar for point in result.tar_at_far},
        "auc": result.auc,
        "eer": result.eer,
    }
    return values if result.xnorm is None else {**values, "xnorm": result.xnorm}
