"""Verification during training, shared out over the ranks.

Each rank keeps the encoded images of its own share, embeds them with the model in training, and all ranks exchange the
embeddings and compute the same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from recognition.config.schema import Config
from recognition.console import progress
from recognition.distributed.shards import class_range
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.errors import ConfigError, DataError
from recognition.plan import validation_paths
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

logger = logging.getLogger(__name__)

FOLDS = 10
"""What the field reports; `verify.py` takes other numbers."""


def build_validators(
    config: Config, world: World, *, quiet: bool = False
) -> dict[str, Callable[[Embed], dict[str, float]]]:
    """Open every set of `validation.val_targets` and return its validator by name; all ranks call this together.

    Rank 0 shows how far it is with its own share, unless `quiet`.
    Raises ConfigError for a missing .bin and DataError for a damaged one, on all ranks, before training begins.
    """
    paths = validation_paths(config)
    sets: dict[str, PairSet] = {}

    def open_all() -> dict[str, str]:
        for name, path in paths.items():
            if not path.is_file():
                raise ConfigError(
                    f"validation.val_targets: {path}: missing; expected the verification set {name!r}; "
                    "correct validation.val_dir or remove the target"
                )
            sets[name] = open_pair_set(path, name=name, folds=FOLDS)
        return {name: pair_set.sha256 for name, pair_set in sets.items()}

    for rank, digests in enumerate(together(open_all, world)):
        for name, digest in digests.items():
            if digest != sets[name].sha256:
                raise DataError(
                    f"{paths[name]}: ranks {rank} and {world.rank} see different files; expected one and the same; "
                    "copy it to every node"
                )
    for pair_set in sets.values():
        warning = order_warning(pair_set, FOLDS)
        if warning and world.is_main:
            logger.warning("%s", warning)
    quiet = quiet or not world.is_main
    return {name: _validator(pair_set, config, world, quiet=quiet) for name, pair_set in sets.items()}


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

    def __call__(self, embed: Embed) -> dict[str, float]:
        """Return accuracy, std, thresholds, TAR at FAR, AUC, EER and the mean length of the embeddings.

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
        return result_values(result)

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
        **{far_label(point.target): point.tar for point in result.tar_at_far},
        "auc": result.auc,
        "eer": result.eer,
    }
    return values if result.xnorm is None else {**values, "xnorm": result.xnorm}


def far_label(target: float) -> str:
    """Spell a target the field's way: tar@far1e-3."""
    return f"tar@far{target:.0e}".replace("e-0", "e-")


def _validator(pair_set: PairSet, config: Config, world: World, *, quiet: bool) -> PairValidator:
    firsts, members = distinct_images(pair_set.images)
    share = class_range(len(firsts), world.rank, world.size)  # the same even split, of pictures
    numbers = firsts[share.start : share.stop]
    return PairValidator(
        pair_set=replace(pair_set, images=[pair_set.images[number] for number in numbers]),
        numbers=numbers,
        members=members,
        image_size=config.data.image_size,
        batch_size=config.validation.batch_size,
        world=world,
        quiet=quiet,
    )
