"""Embed blocks of a set while the training loader's processes read and decode the following ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from recognition.embedding.embedder import Embedder
from recognition.embedding.models import BlockEmbedder
from recognition.embedding.set_pictures import SetPictures
from recognition.embedding.store import BLOCK, block_range
from recognition.feed.batches import Request
from recognition.feed.reader import BatchReader
from recognition.work import device_copies

Embedded = tuple[int, np.ndarray]
"""A block, and its embeddings float32 [n, D]."""


def embed_ahead(tool: BlockEmbedder, blocks: Sequence[int], *, num_readers: int) -> Iterator[Embedded]:
    """Yield the `blocks` in their order, equal to `tool(block)` to the bit; `num_readers` processes read for them.

    Raises what reading and the network raise, at the block or the one before.
    """
    embedder, num_images = tool.embedder, len(tool.source)
    device = embedder.device if isinstance(embedder, Embedder) else torch.device("cpu")
    reader = BatchReader(
        SetPictures(tool.source), batch_size=BLOCK, device=device, num_workers=min(num_readers, len(blocks))
    )
    with contextlib.closing(reader):
        batches = reader.batches(_request(num_images, block) for block in blocks)
        read = (
            (block, batch.images[: len(block_range(num_images, block))])
            for block, batch in zip(blocks, batches, strict=True)
        )
        if isinstance(embedder, Embedder):
            yield from one_late(embedder, read)
        else:
            for block, images in read:
                yield block, embedder.embed(images.numpy())


def one_late(embedder: Embedder, read: Iterator[tuple[int, torch.Tensor]]) -> Iterator[Embedded]:
    """Fetch the embeddings of a block from a GPU when it has the next one to work on: the host waits for no other."""
    before = None
    for block, images in read:
        vectors = device_copies.sent_home(embedder.embed_tensor(images))
        under_way = block, vectors, device_copies.mark(embedder.device)
        if before is not None:
            yield _fetched(*before)
        before = under_way
    if before is not None:
        yield _fetched(*before)


def _fetched(block: int, vectors: torch.Tensor, wait: Callable[[], None]) -> Embedded:
    wait()
    return block, device_copies.arrived(vectors)


def _request(num_images: int, block: int) -> Request:
    """Return a whole batch: a short block is filled up with the set's last image."""
    first = block * BLOCK
    return Request(np.minimum(np.arange(first, first + BLOCK), num_images - 1), 0, first)
