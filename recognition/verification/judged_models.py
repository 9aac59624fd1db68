"""What is judged: a run, weights, an ONNX file, dlib's network, or a folder of embeddings made before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recognition.backbones.architecture import Architecture
from recognition.backbones.metadata import ModelMetadata
from recognition.backbones.weights import load_backbone
from recognition.config.schema import Precision
from recognition.console import progress
from recognition.distributed.shards import class_range
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.embedding.embedder import Embedder, try_images
from recognition.embedding.input_scale import AskedScale
from recognition.embedding.models import is_onnx, load_embedder
from recognition.embedding.onnx_embedder import OnnxEmbedder
from recognition.embedding.store import is_published, read_embeddings
from recognition.errors import CheckpointError, ConfigError, DataError
from recognition.formats.model_facts import ModelFacts
from recognition.verification.protocols import PairSet, distinct_images, embedded_rows

logger = logging.getLogger(__name__)

DEFAULT_SIDE = 112
Rows = npt.NDArray[np.float32]


class JudgedModel(Protocol):
    """Gives the embeddings of a set's pictures."""

    @property
    def path(self) -> str:
        """How the user called it."""

    @property
    def facts(self) -> ModelFacts:
        """What results say of it."""

    @property
    def image_size(self) -> int | None:
        """Side of the images that it takes; None where it embeds none."""

    @property
    def network(self) -> str:
        """Its name for people."""

    def embed_set(self, pair_set: PairSet, *, label: str) -> Rows:
        """Return the flip-summed embeddings [2n, D] of a set's images; all ranks call this together."""


@dataclass(frozen=True)
class ReadyModel:
    """A network ready to embed images of one size; the ranks share a set's pictures."""

    path: str
    facts: ModelFacts
    image_size: int
    network: str
    embed: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
    batch_size: int
    world: World
    quiet: bool
    architecture: Architecture | None = None
    """Of a network that can be built anew; None of an ONNX file."""
    embedder: Embedder | None = None
    metadata: ModelMetadata | None = None
    precision: str = "off"

    def embed_set(self, pair_set: PairSet, *, label: str) -> Rows:
        """Return the embeddings [2n, D]; each distinct picture passes the network once, on one rank."""
        firsts, members = distinct_images(pair_set.images)
        share = class_range(len(firsts), self.world.rank, self.world.size)  # the same even split, of pictures
        numbers = firsts[share.start : share.stop]

        def embed_share() -> Rows:
            rows = embedded_rows(
                self.embed,
                [pair_set.images[number] for number in numbers],
                image_size=self.image_size,
                batch_size=self.batch_size,
                place=str(pair_set.path),
                numbers=numbers,
            )
            shown = progress(rows, total=len(numbers), unit="image", label=label, quiet=self.quiet)
            return np.array(list(shown), dtype=np.float32)

        distinct = np.concatenate([part for part in together(embed_share, self.world) if len(part)])
        return np.asarray(distinct[members], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class StoredModel:
    """The embeddings that embed_faces.py wrote of a set's pictures."""

    path: str
    facts: ModelFacts
    network: str
    rows_by_key: dict[str, int]
    vectors: np.ndarray
    image_size: None = None

    def embed_set(self, pair_set: PairSet, *, label: str) -> Rows:
        """Return the stored embeddings [2n, D]; DataError when they are not those of this set's pictures."""
        keys = self._keys(pair_set)
        missing = [key for key in keys if key not in self.rows_by_key]
        if missing:
            raise DataError(
                f"{self.path}: no embedding of {missing[0]!r} of {pair_set.path}, and {len(set(missing)):,} missing in "
                "all; expected those of this set; embed it, or the folder of its pictures"
            )
        return np.asarray(self.vectors[[self.rows_by_key[key] for key in keys]], dtype=np.float32)

    def _keys(self, pair_set: PairSet) -> list[str]:
        """Return the keys of the 2n images: paths where the set knows them, or else places among its pictures."""
        names = pair_set.about.names
        if names is not None and not all(key.isdigit() for key in self.rows_by_key):
            spelled = {_bare(key): key for key in self.rows_by_key}
            return [name if name in self.rows_by_key else spelled.get(_bare(name), name) for name in names]
        _, members = distinct_images(pair_set.images)
        if members.max() + 1 != len(self.rows_by_key):
            raise DataError(
                f"{self.path}: {len(self.rows_by_key):,} embeddings; expected {members.max() + 1:,}, one for each "
                f"picture of {pair_set.path}; embed this set"
            )
        return [str(member) for member in members]


def _bare(name: str) -> str:
    """Return a path without its suffix: LFW's names have none."""
    return name.rpartition(".")[0] if "." in name.rpartition("/")[2] else name


def open_model(
    path: str,
    world: World,
    *,
    network: str | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
    precision: Precision = "off",
    quiet: bool = True,
    asked: AskedScale | None = None,
) -> JudgedModel:
    """Load a model of any kind; errors say what is missing, and that it does not take images of its size."""
    folder = Path(path)
    if folder.is_dir() and is_published(folder):
        return _stored(folder)
    if path != "dlib" and not is_onnx(path) and asked:
        raise ConfigError(f"{path}: is no .onnx file; --mean, --std and --color are for those; leave them out")
    if is_onnx(path):
        ready = _onnx(path, world, network, image_size, batch_size, precision, quiet, asked)
    elif path == "dlib":
        found = load_embedder(path, asked=asked)
        ready = ReadyModel(path, found.facts, image_size or DEFAULT_SIDE, path, found.embed, batch_size, world, quiet)
    else:
        ready = _network(folder, world, network, image_size, batch_size, precision, quiet)
    blank = np.zeros((1, ready.image_size, ready.image_size, 3), dtype=np.uint8)
    try_images(ready.embed, blank, place=f"{path}: {ready.network}", advice="correct --image-size")
    return ready


def _network(
    path: Path,
    world: World,
    network: str | None,
    asked: int | None,
    batch_size: int,
    precision: Precision,
    quiet: bool,
) -> ReadyModel:
    model = load_backbone(path, network=network, device=world.device)
    side = model.architecture.image_size
    if model.image_size is not None and asked not in (None, side):
        raise CheckpointError(
            f"{path}: {model.told_by} says images of {side} pixels; --image-size asks for {asked}; leave it out"
        )
    embedder = Embedder(model.module, device=world.device, batch_size=batch_size, precision=precision, model=model)
    return ReadyModel(
        str(path),
        model.facts,
        asked or side,
        model.architecture.network,
        embedder.embed,
        batch_size,
        world,
        quiet,
        architecture=replace(model.architecture, image_size=asked or side),
        embedder=embedder,
        metadata=model.metadata,
        precision=precision,
    )


def _onnx(
    path: str,
    world: World,
    network: str | None,
    asked_side: int | None,
    batch_size: int,
    precision: Precision,
    quiet: bool,
    asked: AskedScale | None,
) -> ReadyModel:
    if precision != "off":
        raise ConfigError(f"{path}: an .onnx file has its precision inside; --precision; leave it out")
    if world.device.type == "cuda":
        logger.info("%s: .onnx files run on the CPU here", path)
    embedder = load_embedder(path, network=network, batch_size=batch_size, asked=asked)
    assert isinstance(embedder, OnnxEmbedder), "an .onnx file"
    own, told = embedder.metadata, embedder.image_size
    if told is not None and asked_side not in (None, told):
        raise CheckpointError(
            f"{path}: its input says images of {told} pixels; --image-size asks for {asked_side}; leave it out"
        )
    logger.info("%s: fed %s", path, embedder.scale)
    return ReadyModel(
        path,
        embedder.facts,
        told or asked_side or DEFAULT_SIDE,
        own.architecture.network if own else Path(path).name,
        embedder.embed,
        batch_size,
        world,
        quiet,
        architecture=own.architecture if own else None,
        metadata=own,
        precision=embedder.precision,
    )


def _stored(folder: Path) -> StoredModel:
    found = read_embeddings(folder)
    about = found.about
    facts = ModelFacts(
        fingerprint=about.get("model_fingerprint"),
        network=about.get("network"),
        embedding_size=about.get("embedding_size"),
        image_size=about.get("image_size"),
        dataset=about.get("dataset_fingerprint"),
    )
    network = f"embeddings of {facts.network or Path(str(about.get('model'))).name}"
    return StoredModel(str(folder), facts, network, {key: i for i, key in enumerate(found.keys)}, found.vectors)


def check_same_model(stored: JudgedModel, model: JudgedModel) -> None:
    """Raise DataError when embeddings are not those of a model, where both say their fingerprints."""
    mine, theirs = model.facts.fingerprint, stored.facts.fingerprint
    if None not in (mine, theirs) and mine != theirs:
        raise DataError(
            f"{stored.path}: embeddings of the model {theirs!s:.12}; expected {mine!s:.12}, which {model.path} is; "
            "embed again with it"
        )
