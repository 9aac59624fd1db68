"""What the JSON of a result says of the model that the result depends on. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelFacts:
    """Which model it was; None is what nothing says."""

    fingerprint: str | None
    """Of the weights (docs/formats.md), or the SHA-256 of a file that is not ours."""
    network: str | None = None
    embedding_size: int | None = None
    image_size: int | None = None
    alignment: str | None = None
    """Name of the template that its faces are aligned to."""
    dataset: Mapping[str, int | str] | None = None
    """Fingerprint of the set that the model was trained on."""

    def as_json(self) -> dict[str, Any]:
        """Return the values under the names they have in every result."""
        return {
            "network": self.network,
            "embedding_size": self.embedding_size,
            "image_size": self.image_size,
            "alignment": self.alignment,
            "model_fingerprint": self.fingerprint,
            "dataset_fingerprint": None if self.dataset is None else dict(self.dataset),
        }


_KINDS = {
    "model": str,
    "network": str,
    "embedding_size": int,
    "image_size": int,
    "alignment": str,
    "model_fingerprint": str,
    "dataset_fingerprint": dict,
}


def facts_in_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an earlier result, read from a file, says of its model; None where it says nothing usable."""
    return {name: result.get(name) if type(result.get(name)) is kind else None for name, kind in _KINDS.items()}
