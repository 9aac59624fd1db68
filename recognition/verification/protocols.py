"""Pair verification: a packed set of pairs and their embeddings in, one result with everything a reader needs out.

Used by `verify.py` and by the validators that run during training, so that both report the same number.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from recognition.errors import DataError
from recognition.formats.pairs_about import PairsAbout, read_about
from recognition.formats.pairs_bin import read_pairs
from recognition.images.codec import decode_rgb
from recognition.images.codec import image_size as header_size
from recognition.verification.intervals import MIN_ABOVE, Interval, PairPeople, verification_intervals
from recognition.verification.metrics import (
    FIELD_THRESHOLDS,
    FoldTable,
    check_pairs,
    every_threshold,
    fold_sizes,
    pair_distances,
)
from recognition.verification.sorted_scores import Bools, Counts, Floats, SortedScores, TarAtFar, tar_name
from recognition.work.files import file_sha256

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Embed = Callable[[Pixels], npt.NDArray[np.float32]]
"""Images [n, S, S, 3] RGB -> embeddings [n, D]: of the image plus of its mirror image, not normalized."""

FAR_TARGETS = (1e-3, 1e-4)
DEFAULT_FOLDS = 10
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
    about: PairsAbout = field(default_factory=PairsAbout)
    """What a list or the .json beside the file says of the pictures."""

    def sizes(self, folds: int | None) -> list[int]:
        """Return the sizes of so many folds; of those that the list itself has, or else of 10, when None are asked."""
        if folds is None and self.about.fold_sizes is not None:
            return list(self.about.fold_sizes)
        return fold_sizes(len(self.is_same), DEFAULT_FOLDS if folds is None else folds)


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
    counts: Counts
    """Of all pairs at `threshold_cosine`."""
    xnorm: float | None
    """Mean length of the embeddings (half of the sum over the two mirror images); None where there are none."""
    num_people: int | None
    """None where nobody says whom the pictures show."""
    intervals: Mapping[str, Interval]
    """By the name of the number; one that is missing is not known well enough for an interval, or was not asked for."""
    cosines: Floats = field(repr=False, compare=False)
    is_same: Bools = field(repr=False, compare=False)
    model: str = ""
    """How its model is called, where several are compared."""


def open_pair_set(path: Path, *, name: str | None = None, folds: int | None = None) -> PairSet:
    """Read a verification .bin; its name is the file's stem unless given.

    Raises DataError for a missing or damaged file, for a .json beside it that describes another, for pairs of one kind
    only, and for fewer pairs than folds.
    """
    pairs = read_pairs(path)
    sha256 = file_sha256(path)
    about = read_about(path, sha256=sha256, num_pairs=len(pairs))
    found = PairSet(name or path.stem, path, sha256, pairs.images, pairs.is_same, about)
    try:
        check_pairs(pairs.is_same, len(found.sizes(folds)))
    except DataError as err:
        raise DataError(f"{path}: {err}") from err
    return found


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


def verify_embeddings(
    pair_set: PairSet, embeddings: npt.ArrayLike, *, folds: int | None = None, with_intervals: bool = False
) -> VerificationResult:
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
    distances = pair_distances(rows)
    table = FoldTable.of(distances, pair_set.is_same, sizes=pair_set.sizes(folds), thresholds=FIELD_THRESHOLDS)
    # One quantity under all numbers: the cosine is taken from the distance, so that ties are ties in both.
    return _measure(pair_set, 1.0 - distances / 2.0, table, _Scale(2.0), xnorm=xnorm, with_intervals=with_intervals)


def verify_scores(
    pair_set: PairSet, scores: Floats, *, method: str, folds: int | None = None, with_intervals: bool = False
) -> VerificationResult:
    """Measure any score of likeness [n], larger for pairs that are more alike, with every threshold to choose from.

    A baseline's scores may all lie closer together than the field's thresholds do, and would look worse than they are.
    """
    distances = -np.asarray(scores, dtype=np.float64)
    thresholds = every_threshold(distances)
    table = FoldTable.of(distances, pair_set.is_same, sizes=pair_set.sizes(folds), thresholds=thresholds)
    return _measure(pair_set, -distances, table, _Scale(1.0, 0.0), method=method, with_intervals=with_intervals)


@dataclass(frozen=True)
class _Scale:
    """How a threshold of a table becomes a score: score = offset - threshold / step."""

    step: float
    offset: float = 1.0

    def score_of(self, threshold: float) -> float:
        return self.offset - threshold / self.step


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


def order_warning(pair_set: PairSet, folds: int | None) -> str | None:
    """Return what to do when folds hold one kind of pairs only, else None.

    LFW's list has 300 same and then 300 different pairs in each fold: right in its own folds, and wrong once another
    number of folds cuts it, because leaving one kind out pulls the threshold toward the other.
    """
    sizes = pair_set.sizes(folds)
    starts = np.cumsum([0, *sizes])
    lopsided = sum(
        bool(pair_set.is_same[start:stop].all() or not pair_set.is_same[start:stop].any())
        for start, stop in itertools.pairwise(starts)
    )
    if lopsided == 0 or len(pair_set.is_same) < 2 * len(sizes):
        return None
    return (
        f"{pair_set.name}: {lopsided} of {len(sizes)} folds hold pairs of one kind only, which makes the accuracy "
        "come out too low; interleave same and different pairs when packing, or choose the folds the list was made for"
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
    scores: Floats,
    table: FoldTable,
    scale: _Scale,
    *,
    method: str = "model",
    xnorm: float | None = None,
    with_intervals: bool = False,
) -> VerificationResult:
    is_same = pair_set.is_same
    accuracy = table.measure()
    threshold = scale.score_of(float(np.mean(accuracy.thresholds)))
    ordered = SortedScores.of(scores, is_same)
    points = tuple(ordered.tar_at_far(target) for target in FAR_TARGETS)
    # A pair is accepted above the threshold, not on it: its distance lies below that threshold.
    counts = ordered.counts(float(np.nextafter(threshold, np.inf)))
    eer, eer_threshold = ordered.equal_error()
    people = None if pair_set.about.people is None else PairPeople.of(pair_set.about.people)
    found: dict[str, Interval] = {}
    if people is not None and with_intervals:
        found = verification_intervals(
            scores=scores, is_same=is_same, table=table, score_of=scale.score_of, people=people, targets=FAR_TARGETS
        )
        above = dict.fromkeys(("accuracy", "precision", "recall", "f1"), counts.false_accepts)
        above |= {tar_name(point.target): point.num_above for point in points}
        above["eer"] = ordered.counts(eer_threshold).false_accepts
        found = {name: interval for name, interval in found.items() if above.get(name, MIN_ABOVE) >= MIN_ABOVE}
    return VerificationResult(
        name=pair_set.name,
        method=method,
        num_pairs=len(is_same),
        positive_rate=float(np.mean(is_same)),
        sha256=pair_set.sha256,
        accuracy=accuracy.mean,
        std=accuracy.std,
        threshold_cosine=threshold,
        threshold_l2=accuracy.threshold_l2 if scale.offset else 2.0 - 2.0 * threshold,
        tar_at_far=points,
        auc=ordered.auc(),
        eer=eer,
        counts=counts,
        xnorm=xnorm,
        num_people=None if people is None else people.num,
        intervals=found,
        cosines=scores,
        is_same=is_same,
    )
