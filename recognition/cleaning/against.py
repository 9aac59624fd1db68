"""The test sets that a training set has to be free of, embedded by the network that embedded the training set."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from recognition.cleaning.settings import Machine
from recognition.console import progress
from recognition.embedding.input_scale import AskedScale
from recognition.embedding.models import BlockEmbedder, prepare_blocks
from recognition.embedding.store import EmbeddingStore, all_keys, is_published, open_images, open_vectors
from recognition.errors import ConfigError
from recognition.work.processes import process_map


@dataclass(frozen=True)
class SetEmbedder:
    """Embeds sets into folders below `scratch`, each once: what a killed run left there is continued."""

    scratch: Path
    model: str
    network: str | None = None
    machine: Machine = field(default_factory=Machine)
    fingerprint: str | None = None
    """Of the network whose embeddings these are compared with, where it is known."""
    asked: AskedScale | None = None

    def __call__(self, path: Path, number: int) -> np.ndarray:
        """Return the embeddings [m, D] of a .bin, a packed set or a folder; `number` tells sets apart."""
        folder = self.scratch / f"against-{number}"
        if not is_published(folder):
            self._embed(path, folder)
        return open_vectors(folder)[0]

    def _embed(self, path: Path, folder: Path) -> None:
        source = open_images(path, logs=True)
        machine = self.machine
        settings = (self.model, self.network, machine.batch_size, machine.device, self.asked)
        prepare = partial(prepare_blocks, path, *settings)
        embedder = prepare()
        dimension, facts = embedder.dimension(self.model), embedder.facts
        if self.fingerprint not in (None, facts.fingerprint):
            raise ConfigError(
                f"--against: {self.model} has the fingerprint {str(facts.fingerprint)[:12]}; expected "
                f"{self.fingerprint:.12}, the model of the embeddings; name it with --model, or embed again"
            )
        about = {"faces": str(path.resolve()), "model": self.model, **facts.as_json()}
        store = EmbeddingStore.begin(folder, len(source), dimension, about)
        missing = store.missing
        work = process_map(_embed_block, missing, prepare, workers=self.machine.workers)
        for block, vectors in progress(
            work, total=len(missing), unit="block", label=path.name, quiet=self.machine.quiet
        ):
            store.write(block, vectors)
        store.publish(all_keys(source), about)


def _embed_block(embedder: BlockEmbedder, block: int) -> tuple[int, np.ndarray]:
    return block, embedder(block)
