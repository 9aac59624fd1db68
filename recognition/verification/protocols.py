"""Pair verification: a packed set of pairs and their embeddings in, one result with everything a reader needs out.

Used by `verify.py` and by the validators that run during training, so that both report the same number.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from recognition.errors import DataError
from recognition.formats.pairs_bin import read_pairs
from recognition.images.codec import decode_rgb
from recognition.images.codec import image_size as header_size
from recognition.verification.metrics import (
    FIELD_THRESHOLDS,
    Bools,
    Floats,
    TarAtFar,
    check_pairs,
    equal_error_rate,
    every_threshold,
    fold_accuracy,
    fold_sizes,
    pair_distances,
    roc_auc,
    tar_at_far,
)
from recognition.work.files import file_sha256

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Embed = Callable[[Pixels], npt.NDArray[np.float32]]
"""Images [n, S, S, 3] RGB -> embeddings [n, D]: of the image plus of its mirror image, not normalized."""

FAR_TARGETS = (1e-3, 1e-4)
NEAR_CHANCE = 0.05


@dataclass(frozen=True, eq=False)
class PairSet:
    """A verification .bin in memory, its images still encoded; pair i is images 2i and 2i+1."""

    name: str
    path: Path
    sha256: str
    """Of the file: several files named lfw.bin are in circulation, and they give different numbers."""
    images: list[bytes]
    is_same: Bools


@dataclass(frozen=True)
class VerificationResult:
    """How well one method tells the pairs of one set apart."""

    name: str
    method: str
    num_pairs: int
    positive_rate: float
    sha256: str
    accuracy: float
    std: float
    threshold_cosine: float
    threshold_l2: float
    tar_at_far: tuple[TarAtFar, ...]
    """Their thresholds are cosines."""
    auc: float
    eer: float
    xnorm: float | None
    """Mean length of the embeddings (half of the sum over the two mirror images); None where there are none."""
    cosines: Floats = field(repr=False, compare=False)
    is_same: Bools = field(repr=False, compare=False)


def open_pair_set(path: Path, *, name: str | None = None, folds: int = 10) -> PairSet:
    """Read a verification .bin; its name is the file's stem unless given.

    Raises DataError for a missing or damaged file, for pairs of one kind only, and for fewer pairs than folds.
    """
    pairs = read_pairs(path)
    try:
        check_pairs(pairs.is_same, folds)
    except DataError as err:
        raise DataError(f"{path}: {err}") from err
    return PairSet(name or path.stem, path, file_sha256(path), pairs.images, pairs.is_same)


def embedded_rows(
    embed: Embed,
    images: Sequence[bytes],
    *,
    image_size: int,
    batch_size: int,
    place: str,
    numbers: Sequence[int] | None = None,
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the embedding of each encoded image, in order; the next batch is decoded while this one is embedded.

    Raises DataError naming `place` and the image's place in the file, from `numbers` when they are not simply counted.
    """
    starts = range(0, len(images), batch_size)
    numbers = range(len(images)) if numbers is None else numbers

    def decoded(start: int) -> Pixels:
        portion = slice(start, start + batch_size)
        return decode_images(images[portion], image_size=image_size, place=place, numbers=numbers[portion])

    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(decoded, 0) if images else None
        for start in starts:
            assert upcoming is not None, "a batch was asked for before it was submitted"
            pixels = upcoming.result()
            following = start + batch_size
            upcoming = pool.submit(decoded, following) if following < len(images) else None
            rows = embed(pixels)
            assert len(rows) == len(pixels), f"{len(rows)} embeddings for {len(pixels)} images"
            yield from rows


def embed_pair_set(
    embed: Embed,
    pair_set: PairSet,
    *,
    image_size: int,
    batch_size: int,
    watch: Callable[[Iterator[npt.NDArray[np.float32]], int], Iterator[npt.NDArray[np.float32]]] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the embeddings [2n, D] of a set's images; each distinct picture is embedded once.

    `watch` gets the rows and their number, and passes them on: a place for progress.
    """
    firsts, members = distinct_images(pair_set.images)
    rows = embedded_rows(
        embed,
        [pair_set.images[first] for first in firsts],
        image_size=image_size,
        batch_size=batch_size,
        place=str(pair_set.path),
        numbers=firsts,
    )
    distinct = np.stack(list(watch(rows, len(firsts)) if watch else rows))
    return np.asarray(distinct[members], dtype=np.float32)


def distinct_images(images: Sequence[bytes]) -> tuple[list[int], Indices]:
    """Return where each distinct picture first stands [m], and which of those every image is [2n].

    LFW's 12,000 images are 7,701 pictures: a picture is embedded once, however many pairs it is in.
    """
    seen: dict[bytes, int] = {}
    members = [seen.setdefault(image, len(seen)) for image in images]
    firsts = np.unique(members, return_index=True)[1]
    return firsts.tolist(), np.asarray(members, dtype=np.int64)


def decode_images(
    images: Sequence[bytes], *, image_size: int, place: str, numbers: Sequence[int] | None = None
) -> Pixels:
    """Decode images to [n, image_size, image_size, 3] RGB, resizing those of another size."""
    numbers = range(len(images)) if numbers is None else numbers
    return np.stack(
        [
            fit_square(decode_rgb(image, place=f"{place}: image {number}"), image_size)
            for number, image in zip(numbers, images)
        ]
    )


def fit_square(image: Pixels, side: int) -> Pixels:
    """Scale the shorter side to `side` (bicubic, what the field's reader does) and cut the middle out of the longer."""
    height, width = image.shape[:2]
    if height == width == side:
        return image
    shorter = min(height, width)
    scaled = cv2.resize(image, (width * side // shorter, height * side // shorter), interpolation=cv2.INTER_CUBIC)
    top, left = (scaled.shape[0] - side) // 2, (scaled.shape[1] - side) // 2
    return np.asarray(scaled[top : top + side, left : left + side], dtype=np.uint8)


def verify_embeddings(pair_set: PairSet, embeddings: npt.ArrayLike, *, folds: int = 10) -> VerificationResult:
    """Measure a model by its flip-summed embeddings [2n, D], as the field reports it.

    Raises DataError when an embedding is not finite.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    broken = count_broken(rows)
    if broken:
        raise DataError(
            f"{pair_set.path}: {broken} of {len(rows)} embeddings are not finite; expected numbers; "
            "the weights hold NaN or overflow, take an earlier checkpoint"
        )
    xnorm = float(np.mean(np.linalg.norm(rows, axis=1))) / 2
    return _measure(pair_set, pair_distances(rows), folds=folds, thresholds=FIELD_THRESHOLDS, xnorm=xnorm)


def verify_scores(pair_set: PairSet, scores: Floats, *, method: str, folds: int = 10) -> VerificationResult:
    """Measure any score of likeness [n] on the scale of a cosine, with every possible threshold to choose from.

    A baseline's scores may all lie closer together than the field's thresholds do, and would look worse than they are.
    """
    distances = 2.0 - 2.0 * np.asarray(scores, dtype=np.float64)
    return _measure(pair_set, distances, folds=folds, thresholds=every_threshold(distances), method=method)


def count_broken(embeddings: npt.NDArray[np.floating]) -> int:
    """Return how many rows hold a value that is not finite."""
    return int(np.count_nonzero(~np.isfinite(embeddings).all(axis=1)))


def chance_warning(result: VerificationResult) -> str | None:
    """Return what to look for when a result is hardly better than always giving the commoner answer, else None."""
    chance = max(result.positive_rate, 1.0 - result.positive_rate)
    if result.accuracy > chance + NEAR_CHANCE:
        return None
    return (
        f"{result.name}: accuracy {result.accuracy:.4f} is hardly better than guessing ({chance:.4f}): expected of "
        "untrained weights; of trained ones it means color channels swapped, flags that do not belong to these "
        "images, faces aligned in another way than in training, or BatchNorm statistics that were never updated"
    )


def order_warning(pair_set: PairSet, folds: int) -> str | None:
    """Return what to do when folds hold one kind of pairs only, else None.

    LFW's list has 300 same and then 300 different pairs in each fold: right in its own folds, and wrong once another
    number of folds cuts it, because leaving one kind out pulls the threshold toward the other.
    """
    starts = np.cumsum([0, *fold_sizes(len(pair_set.is_same), folds)])
    lopsided = sum(
        bool(pair_set.is_same[start:stop].all() or not pair_set.is_same[start:stop].any())
        for start, stop in itertools.pairwise(starts)
    )
    if lopsided == 0 or len(pair_set.is_same) < 2 * folds:
        return None
    return (
        f"{pair_set.name}: {lopsided} of {folds} folds hold pairs of one kind only, which makes the accuracy come out "
        "too low; interleave same and different pairs when packing, or choose the folds the list was made for"
    )


def size_warning(pair_set: PairSet, side: int) -> str | None:
    """Return what to do when pictures are not of the model's size, else None; their headers are read.

    Raises DataError when one has none.
    """
    places = (f"{pair_set.path}: image {number}" for number in itertools.count())
    sizes = Counter(header_size(image, place=place) for image, place in zip(pair_set.images, places))
    others = len(pair_set.images) - sizes.pop((side, side), 0)
    if not others:
        return None
    height, width = sizes.most_common(1)[0][0]
    return (
        f"{pair_set.name}: {others:,} of {len(pair_set.images):,} images are not {side} x {side} pixels, as the model "
        f"takes them; most are {width} x {height}; they are scaled; align to its size for the model's own accuracy"
    )


def _measure(
    pair_set: PairSet,
    distances: Floats,
    *,
    folds: int,
    thresholds: Floats,
    method: str = "model",
    xnorm: float | None = None,
) -> VerificationResult:
    is_same = pair_set.is_same
    # One quantity under all numbers: the cosine is taken from the distance, so that ties are ties in both.
    cosines = 1.0 - distances / 2.0
    accuracy = fold_accuracy(distances, is_same, folds=folds, thresholds=thresholds)
    return VerificationResult(
        name=pair_set.name,
        method=method,
        num_pairs=len(is_same),
        positive_rate=float(np.mean(is_same)),
        sha256=pair_set.sha256,
        accuracy=accuracy.mean,
        std=accuracy.std,
        threshold_cosine=accuracy.threshold_cosine,
        threshold_l2=accuracy.threshold_l2,
        tar_at_far=tuple(tar_at_far(cosines, is_same, target) for target in FAR_TARGETS),
        auc=roc_auc(cosines, is_same),
        eer=equal_error_rate(cosines, is_same),
        xnorm=xnorm,
        cosines=cosines,
        is_same=is_same,
    )
