"""Sets of made-up faces for the tests of cleaning: names on the disk, and embeddings with known agreement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from recognition.cleaning.context import Context
from recognition.cleaning.decisions import Decisions, all_kept
from recognition.cleaning.pictures import Pictures
from recognition.embedding.store import BLOCK, EmbeddingStore, Keyed

DIMENSION = 64


def person_vectors(person: int, num: int, *, noise: float = 0.5, seed: int = 0) -> np.ndarray:
    """Return unit vectors [num, 64] of one person: two of them have a cosine of about 1 / (1 + noise^2)."""
    center = np.random.default_rng((7, person)).normal(size=DIMENSION)
    generator = np.random.default_rng((seed, person, num))
    vectors = center / np.linalg.norm(center) + noise * generator.normal(size=(num, DIMENSION)) / np.sqrt(DIMENSION)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_set(root: Path, vectors: Mapping[str, np.ndarray], *, lengths: float = 3.0) -> tuple[Path, Path]:
    """Write picture -> vector as a folder of (empty) faces and as embeddings of any length; return both folders."""
    faces, embedded = root / "faces", root / "embedded"
    names = sorted(vectors)
    for name in names:
        (faces / name).parent.mkdir(parents=True, exist_ok=True)
        (faces / name).touch()
    write_embeddings(embedded, names, np.stack([vectors[name] for name in names]) * np.float32(lengths))
    return faces, embedded


def write_embeddings(folder: Path, names: Sequence[str], vectors: np.ndarray, *, model: str | None = None) -> None:
    """Publish embeddings as embed_faces.py does."""
    about = {"model": model, "network": None}
    store = EmbeddingStore.begin(folder, len(names), vectors.shape[1], about)
    for block, start in enumerate(range(0, len(names), BLOCK)):
        store.write(block, vectors[start : start + BLOCK].astype(np.float32))
    folders = sorted({name.rpartition("/")[0] for name in names})
    store.publish((Keyed(name, folders.index(name.rpartition("/")[0])) for name in names), about)


def people(counts: Mapping[str, int], **how: float) -> dict[str, np.ndarray]:
    """Return picture -> vector for people of so many pictures; the names are the folders."""
    found = {}
    for person, (name, count) in enumerate(counts.items()):
        for i, vector in enumerate(person_vectors(person, count, **how)):  # type: ignore[arg-type]
            found[f"{name}/{i:03}.jpg"] = vector
    return found


def open_set(root: Path, vectors: Mapping[str, np.ndarray], **thresholds: float) -> tuple[Context, Decisions]:
    """Write a set and return the context of a step, with these thresholds, and the decisions before it."""
    pictures = Pictures(write_set(root, vectors)[1])
    return Context(pictures, thresholds, spread=0.2), all_kept(pictures.labels, pictures.identities)


def names_of(context: Context, rows: np.ndarray) -> list[str]:
    """Return the names of rows, sorted."""
    return sorted(context.pictures.name(row) for row in rows.tolist())


def read_jsonl(path: Path) -> list[dict]:  # type: ignore[type-arg]
    """Return the objects of a file of JSON lines."""
    with open(path, encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]
