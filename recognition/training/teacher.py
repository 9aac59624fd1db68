"""Where a teacher's embeddings come from: a folder of embed_faces.py, or a network that embeds the set once.

Each image has one target, that of its clean crop: how a run changes its images is what the student learns to see
through. What is learned is where the embeddings point once their common mean is taken off, since that of many networks
is longer than what tells two faces apart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recognition.config.schema import Config, has_teacher
from recognition.console import Stopwatch, count, duration, progress
from recognition.distributed.collectives import barrier
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.embedding.embedder import try_images
from recognition.embedding.models import FaceEmbedder, load_embedder
from recognition.embedding.store import (
    EmbeddingStore,
    Keyed,
    block_range,
    is_alike,
    is_published,
    iterate_keys,
    open_vectors,
)
from recognition.embedding.unit_rows import to_unit_rows_
from recognition.errors import CheckpointError, ConfigError, DataError
from recognition.feed.dataset import Dataset

logger = logging.getLogger(__name__)

FOLDER = "teacher"
"""In the run folder: the embeddings of a teacher that is a network."""
_MEAN_OF = 1 << 16
"""Images whose mean is taken, spread evenly over the set: it is the same on every rank and after every restart."""


@dataclass(frozen=True)
class Teacher:
    """Targets of a training set."""

    parts: Sequence[np.ndarray]
    """Per set of the run its embeddings as they are stored [n, E] float32, memory-mapped."""
    rows: Sequence[np.ndarray | None]
    """Per set the row of each image; None where they are in the set's order."""
    starts: np.ndarray
    """The first image of each set, and the number of all."""
    facts: Mapping[str, int | str] = field(default_factory=dict)
    """What the student's metadata say of it."""
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Of unit embeddings [E]."""

    @property
    def size(self) -> int:
        """Length E of its embeddings."""
        return int(self.parts[0].shape[1])

    def targets(self, images: Tensor) -> Tensor:
        """Return float32 [B, E] of length 1 for the images' numbers [B], which are on the host."""
        found = self._unit(images.numpy()) - self.mean
        to_unit_rows_(found)
        return torch.from_numpy(found.astype(np.float32))

    def _unit(self, images: np.ndarray) -> np.ndarray:
        """Return unit rows as float64 [B, E]."""
        number = np.searchsorted(self.starts, images, side="right") - 1
        found = np.empty((len(images), self.size))
        for part in np.unique(number).tolist():
            chosen = number == part
            within, rows = images[chosen] - self.starts[part], self.rows[part]
            found[chosen] = self.parts[part][within if rows is None else rows[within]]
        to_unit_rows_(found)
        return found


def open_teacher(
    config: Config, dataset: Dataset, world: World, folder: Path, *, quiet: bool = False
) -> Teacher | None:
    """Return the teacher that the config names, None where it names none; its network embeds the set here.

    Raises on all ranks: DataError for embeddings of other images, CheckpointError for a network that does not take the
    images. Collectives: gathers and barriers between the hosts.
    """
    if not has_teacher(config.teacher):
        return None
    if config.teacher.model is not None:
        with_model = _embed_set(config, config.teacher.model, dataset, world, folder / FOLDER, quiet=quiet)
        return _completed([with_model], [None], dataset, [folder / FOLDER])
    folders = [Path(name) for name in config.teacher.embeddings]
    sets = dataset.sets()
    if len(folders) != len(sets):
        raise ConfigError(
            f"teacher.embeddings: names {count(len(folders), 'folder')} for {count(len(sets), 'set')}; expected one "
            "for data.rec and one for each of data.more_rec, in their order"
        )

    def match() -> None:
        found = [_match(place, part) for place, part in zip(folders, sets)]
        matched.append(([vectors for vectors, _ in found], [rows for _, rows in found]))

    matched: list[tuple[list[np.ndarray], list[np.ndarray | None]]] = []
    together(match, world)
    return _completed(*matched[0], dataset, folders)


def check_teacher(config: Config, dataset: Dataset) -> None:
    """Raise what `open_teacher` would before it embeds: the plan of a run looks at its teacher."""
    if config.teacher.model is not None:
        _load(config, config.teacher.model, dataset, torch.device("cpu"))
    for place in config.teacher.embeddings:
        open_vectors(Path(place))


def _completed(
    parts: Sequence[np.ndarray], rows: Sequence[np.ndarray | None], dataset: Dataset, folders: Sequence[Path]
) -> Teacher:
    """Return the teacher with its mean, after a look at the embeddings."""
    sizes = {part.shape[1] for part in parts}
    if len(sizes) > 1:
        raise DataError(
            f"{folders[0]}: embeddings of {' and '.join(map(str, sorted(sizes)))} numbers; expected those of one "
            "teacher for all sets; embed them with the same --model"
        )
    lengths = [len(dataset)] if len(parts) == 1 else [len(part) for part in dataset.sets()]
    teacher = Teacher(parts, rows, np.cumsum([0, *lengths]), _facts(folders[0]))
    sample = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _MEAN_OF)).astype(np.int64))
    unit = teacher._unit(sample)
    if not np.isfinite(unit).all():
        raise DataError(f"{folders[0]}: holds embeddings that are not finite; expected numbers; embed the set again")
    mean = unit.mean(axis=0)
    logger.info(
        "teacher: %s, %d numbers a face; their mean, of length %.2f, is subtracted",
        teacher.facts.get("model", "embeddings"),
        teacher.size,
        float(np.linalg.norm(mean)),
    )
    return Teacher(teacher.parts, rows, teacher.starts, teacher.facts, mean)


def _facts(folder: Path) -> dict[str, int | str]:
    """Return what the metadata of the student say: which network, and what was done to its embeddings."""
    _, about = open_vectors(folder)
    kept = {name: about.get(name) for name in ("network", "model_fingerprint", "embedding_size")}
    stated: dict[str, int | str] = {name: value for name, value in kept.items() if isinstance(value, (int, str))}
    model = about.get("model")
    name = {"model": Path(model).name} if isinstance(model, str) else {}
    return {**stated, **name, "mean": "subtracted"}


def _match(folder: Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the embeddings in `folder` and the row of each image; DataError where they are of other images."""
    vectors, about = open_vectors(folder)
    keyed = [pair for _, pair in iterate_keys(folder)]
    if len(vectors) != len(keyed):
        raise DataError(f"{folder}: {len(vectors):,} vectors for {len(keyed):,} keys; expected one each; embed again")
    wanted = [str(dataset.origin(number).key) for number in range(len(dataset))]
    advice = "embed the set that is trained on: embed_faces.py DATA_REC OUT"
    rows = None
    if [pair.key for pair in keyed[: len(wanted)]] != wanted:
        place = {pair.key: row for row, pair in enumerate(keyed)}
        missing = [key for key in wanted if key not in place]
        if missing:
            raise DataError(
                f"{folder}: has no embedding of {missing[0]!r} and {len(missing) - 1:,} more of the "
                f"{count(len(wanted), 'image')}; expected all of them; {advice}"
            )
        rows = np.array([place[key] for key in wanted])
    _compare(folder, about, keyed, rows, dataset, wanted, advice)
    return vectors, rows


def _compare(
    folder: Path,
    about: Mapping[str, Any],
    keyed: Sequence[Keyed],
    rows: np.ndarray | None,
    dataset: Dataset,
    wanted: Sequence[str],
    advice: str,
) -> None:
    """Raise DataError where keys are those of the set, but labels or pixels are of another."""
    if all(key.isdigit() for key in wanted):  # of a packed set, as any other may have them
        labels = np.array([pair.label for pair in keyed])[slice(len(wanted)) if rows is None else rows]
        differing = np.flatnonzero(labels != dataset.labels())
        if len(differing):
            raise DataError(
                f"{folder}: gives key {wanted[differing[0]]} class {labels[differing[0]]}, the set "
                f"{dataset.labels()[differing[0]]}; expected embeddings of these images; {advice}"
            )
    stored = about.get("thumbnails")
    number = {key: image for image, key in enumerate(wanted)}
    for key, drawn in stored.items() if isinstance(stored, dict) else ():
        if key in number and not is_alike(dataset[number[key]][0], drawn):
            raise DataError(
                f"{folder}: was made of another picture than {dataset.place(number[key])}; expected embeddings of "
                f"these images; {advice}"
            )


def _load(config: Config, model: str, dataset: Dataset, device: torch.device) -> tuple[FaceEmbedder, int]:
    """Return the network and the length of its embeddings, by one image."""
    embedder = load_embedder(model, device=device, batch_size=config.validation.batch_size)
    image = _read(dataset, range(1))
    size = try_images(embedder.embed, image, place=f"teacher.model: {model}:", advice="align the faces to that").shape[
        1
    ]
    return embedder, int(size)


def _embed_set(config: Config, model: str, dataset: Dataset, world: World, folder: Path, *, quiet: bool) -> np.ndarray:
    """Return the embeddings of the whole set, which the ranks write into `folder` block by block, once."""
    watch = Stopwatch()
    loaded: list[tuple[FaceEmbedder, int, dict[str, Any]]] = []

    def load() -> None:
        embedder, size = _load(config, model, dataset, world.device)
        about = {"model": model, "set": dict(dataset.fingerprint()), **embedder.facts.as_json()}
        loaded.append((embedder, size, about))
        if world.is_main and not is_published(folder):
            EmbeddingStore.begin(folder, len(dataset), size, about)

    together(load, world)
    embedder, size, about = loaded[0]
    is_there = together(lambda: is_published(folder), world)[0]
    if not is_there:
        together(lambda: _fill(EmbeddingStore(folder), embedder, dataset, world, quiet=quiet), world)
        together(lambda: _publish(folder, dataset, about) if world.is_main else None, world)
        logger.info("teacher: embedded %s in %s", count(len(dataset), "image"), duration(watch.seconds))
    barrier(world)
    vectors, found = open_vectors(folder)
    differing = [name for name in about if found.get(name) != about[name]]
    if differing or vectors.shape != (len(dataset), size):
        raise DataError(
            f"{folder}: holds embeddings of another {differing[0] if differing else 'set'}; expected those of {model}; "
            "remove that folder, or set output=..."
        )
    return vectors


def _fill(store: EmbeddingStore, embedder: FaceEmbedder, dataset: Dataset, world: World, *, quiet: bool) -> None:
    """Write this rank's share of the blocks that are missing."""
    mine = store.missing[world.rank :: world.size]
    for block in progress(mine, total=len(mine), unit="block", label="teacher", quiet=quiet or not world.is_main):
        numbers = block_range(len(dataset), block)
        vectors = embedder.embed(_read(dataset, numbers)).astype(np.float32)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise CheckpointError(
                f"teacher.model: its embedding of {dataset.place(numbers[int(broken[0])])} is not finite; expected "
                "numbers; take another teacher"
            )
        store.write(block, vectors)


def _publish(folder: Path, dataset: Dataset, about: Mapping[str, Any]) -> None:
    labels = dataset.labels().tolist()
    keyed = (Keyed(str(dataset.origin(number).key), label) for number, label in enumerate(labels))
    EmbeddingStore(folder).publish(keyed, about)


def _read(dataset: Dataset, numbers: range) -> np.ndarray:
    """Return uint8 [n, S, S, 3]; black in the place of an image that cannot be read, which training replaces."""
    side = dataset.image_size
    images = np.zeros((len(numbers), side, side, 3), np.uint8)
    for row, number in enumerate(numbers):
        try:
            images[row] = dataset[number][0]
        except DataError as err:
            logger.warning("teacher: %s; left black", err)
    return images
