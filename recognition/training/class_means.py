"""Class centers that start where their people already are: from mean embeddings of the network a run starts from.

With `init_from` the backbone knows faces on the first day, and random centers would first pull it away from what it
knows. `head.init: class_means` embeds a few images of every class and points its center at their mean.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from recognition.config.schema import Config
from recognition.console import Stopwatch, count, duration, progress
from recognition.distributed.together import together
from recognition.distributed.world import World, declared_local_size
from recognition.draws.permutation import IntArray
from recognition.embedding.embedder import Embedder
from recognition.embedding.unit_rows import to_unit_rows_
from recognition.errors import CheckpointError, DataError
from recognition.feed.bad_records import BadRecord, BadRecordList
from recognition.feed.build import bad_record_list
from recognition.feed.dataset import Dataset, Picture
from recognition.training.build import Parts
from recognition.work.system import usable_cores
from recognition.work.threads import ordered_map

logger = logging.getLogger(__name__)

_BLOCK = 4096  # classes whose sums are held at once
_MAX_THREADS = 8


def start_from_class_means(
    parts: Parts,
    dataset: Dataset,
    config: Config,
    world: World,
    folder: Path,
    *,
    kept: npt.NDArray[np.bool_] | None = None,
    quiet: bool = False,
) -> None:
    """Point the centers at the mean embeddings of their classes; all ranks call it.

    Each rank embeds up to `head.init_images` images of every class it owns, spread evenly over what the class has, as
    verification does: the sum of an image's and its mirror image's embedding, normalized. Sub-center k gets every K-th
    image from the k-th on. A center keeps the length of its random start, for which the learning rates are made, and
    one without images all of it. Those of `kept` stay as they are (bool, a class of this rank each). Raises on all
    ranks where one of them fails. Collective: one gather.
    """
    watch = Stopwatch()

    def fill() -> tuple[int, int]:
        means = _Means(parts, dataset, config, world, bad_record_list(config, folder), kept)
        return means.fill_(quiet=quiet or not world.is_main)

    rows, images = (sum(column) for column in zip(*together(fill, world)))
    total = parts.num_classes * config.head.sub_centers
    logger.info(
        "head: %s of %s start from the means of %s, at most %d a class, in %s; the others are random",
        f"{rows:,}",
        count(total, "center"),
        count(images, "image"),
        config.head.init_images,
        duration(watch.seconds),
    )


def choose_images(labels: IntArray, classes: range, most: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return (images, their classes, their numbers within the class) of up to `most` images of each of `classes`.

    Sorted by class; what is left out of a class with more is spread evenly over it.
    """
    own = np.flatnonzero((labels >= classes.start) & (labels < classes.stop))
    own = own[np.argsort(labels[own], kind="stable")]
    found = labels[own]
    _, first, inverse, counts = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    number, size = np.arange(len(own)) - first[inverse], counts[inverse]
    # Of c images the r-th is taken when r * most / c passes a whole number, which it does `most` times.
    taken = (size <= most) | ((number + 1) * most // size > number * most // size)
    return own[taken], found[taken], (number * np.minimum(most, size) // size)[taken]


class _Means:
    """One rank's share of the work."""

    def __init__(
        self,
        parts: Parts,
        dataset: Dataset,
        config: Config,
        world: World,
        bad_records: BadRecordList | None,
        kept: npt.NDArray[np.bool_] | None,
    ) -> None:
        self._kept = kept
        self._head = parts.head
        self._sub_centers = config.head.sub_centers
        self._most = config.head.init_images
        self._dataset = dataset
        self._bad_records = bad_records
        self._source = config.init_from
        self._batch_size = config.train.batch_size
        self._block_rows = _BLOCK * self._sub_centers
        self._embedding_size = config.backbone.embedding_size
        self._embedder = Embedder(
            parts.backbone, device=world.device, batch_size=config.train.batch_size, precision=config.train.precision
        )
        self._threads = min(_MAX_THREADS, max(1, usable_cores() // declared_local_size()))

    def fill_(self, *, quiet: bool) -> tuple[int, int]:
        """Set this rank's centers, and return how many of them and from how many images."""
        classes = self._head.class_range
        images, labels, numbers = choose_images(self._dataset.labels(), classes, self._most)
        if self._kept is not None:
            is_new = ~self._kept[labels - classes.start]
            images, labels, numbers = images[is_new], labels[is_new], numbers[is_new]
        rows = (labels - classes.start) * self._sub_centers + numbers % self._sub_centers
        # The images of a block are read in the order of the file, which for most sets is that of the classes anyway.
        order = np.lexsort((images, rows // self._block_rows))
        images, rows = images[order], rows[order]
        embedded = zip(rows.tolist(), self._embedded(images.tolist()))
        num_filled = num_images = 0
        block, sums = -1, np.zeros(0)
        for row, vector in progress(embedded, total=len(images), unit="img", label="class means", quiet=quiet):
            if row // self._block_rows != block:
                num_filled += self._set(block, sums)
                block, sums = row // self._block_rows, np.zeros((self._block_rows, self._embedding_size))
            if vector is not None:
                sums[row % self._block_rows] += vector
                num_images += 1
        return num_filled + self._set(block, sums), num_images

    def _embedded(self, images: list[int]) -> Iterator[npt.NDArray[np.float64] | None]:
        """Yield the normalized embedding of each image, None for one that was skipped."""
        read = ordered_map(self._read, images, workers=self._threads)
        while batch := list(islice(read, self._batch_size)):
            good = [picture for picture in batch if isinstance(picture, np.ndarray)]
            vectors = iter(self._embed(np.stack(good)) if good else ())
            for picture in batch:
                if isinstance(picture, np.ndarray):
                    yield next(vectors)
                else:
                    assert self._bad_records is not None, "a bad record without a list"
                    self._bad_records.add([picture])
                    yield None

    def _embed(self, pictures: Picture) -> npt.NDArray[np.float64]:
        vectors = self._embedder.embed(pictures).astype(np.float64)
        lengths = to_unit_rows_(vectors)
        if not (np.isfinite(lengths).all() and lengths.all()):
            raise CheckpointError(
                f"{self._source}: gives embeddings that are not finite or have no length; expected a trained network; "
                "check init_from, or set head.init: random"
            )
        return vectors

    def _read(self, image: int) -> Picture | BadRecord:
        try:
            return self._dataset[image][0]
        except DataError as err:
            if self._bad_records is None:
                raise
            return BadRecord(*self._dataset.origin(image), str(err))

    def _set(self, block: int, sums: npt.NDArray[np.float64]) -> int:
        """Point the centers of a block of rows along their sums; return how many had images."""
        if block < 0:
            return 0  # before the first image
        first = block * self._block_rows
        rows = self._head.state_rows()["centers"][first : first + self._block_rows].double().cpu()
        directions = torch.from_numpy(sums[: len(rows)])
        lengths, random = (torch.linalg.vector_norm(side, dim=1, keepdim=True) for side in (directions, rows))
        moved = torch.where(lengths > 0, directions / lengths.clamp(min=1e-12) * random, rows)
        self._head.set_centers(self._head.class_range.start + block * _BLOCK, moved.float())
        return int((lengths > 0).sum())
