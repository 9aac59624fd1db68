"""The test sets that a training set has to be free of, embedded by the network that embedded the training set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from recognition.console import progress
from recognition.embedding.models import BlockEmbedder, prepare_blocks
from recognition.embedding.store import EmbeddingStore, all_keys, is_published, open_images, open_vectors
from recognition.work.processes import process_map


@dataclass(frozen=True)
class SetEmbedder:
    """Embeds sets into folders below `scratch`, each once: what a killed run left there is continued."""

    scratch: Path
    model: str
    network: str | None = None
    batch_size: int = 64
    workers: int = 1
    device: str = "cpu"
    quiet: bool = True

    def __call__(self, path: Path, number: int) -> np.ndarray:
        """Return the embeddings [m, D] of a .bin, a packed set or a folder; `number` tells sets apart."""
        folder = self.scratch / f"against-{number}"
        if not is_published(folder):
            self._embed(path, folder)
        return open_vectors(folder)[0]

    def _embed(self, path: Path, folder: Path) -> None:
        source = open_images(path, logs=True)
        prepare = partial(prepare_blocks, path, self.model, self.network, self.batch_size, self.device)
        dimension = prepare().dimension(self.model)
        about = {"faces": str(path.resolve()), "model": self.model, "network": self.network}
        store = EmbeddingStore.begin(folder, len(source), dimension, about)
        missing = store.missing
        work = process_map(_embed_block, missing, prepare, workers=self.workers)
        for block, vectors in progress(work, total=len(missing), unit="block", label=path.name, quiet=self.quiet):
            store.write(block, vectors)
        store.publish(all_keys(source), about)


def _embed_block(embedder: BlockEmbedder, block: int) -> tuple[int, np.ndarray]:
    return block, embedder(block)
