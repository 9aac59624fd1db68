"""Face recognition with the class-center matrix sharded over ranks.

The public names, imported when they are first used: `import recognition` imports no torch. README.md has a program
that uses them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOMES = {
    "AdaFace": "recognition.heads.margins",
    "ArcFace": "recognition.heads.margins",
    "CombinedMargin": "recognition.heads.margins",
    "CosFace": "recognition.heads.margins",
    "CurricularFace": "recognition.heads.margins",
    "SphereFace": "recognition.heads.margins",
    "ShardedSoftmax": "recognition.heads.sharded_softmax",
    "build_backbone": "recognition.backbones",
    "load_backbone": "recognition.backbones.weights",
    "save_backbone": "recognition.backbones.weights",
    "Embedder": "recognition.embedding.embedder",
    "load_embedder": "recognition.embedding.models",
    "join_world": "recognition.distributed.world",
    "joined_world": "recognition.distributed.world",
    "load_head": "recognition.heads.saving",
    "save_head": "recognition.heads.saving",
}
"""Public name -> the module that holds it."""

__all__ = [
    "AdaFace",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "Embedder",
    "ShardedSoftmax",
    "SphereFace",
    "__version__",
    "build_backbone",
    "join_world",
    "joined_world",
    "load_backbone",
    "load_embedder",
    "load_head",
    "save_backbone",
    "save_head",
]

if TYPE_CHECKING:
    from recognition.backbones import build_backbone
    from recognition.backbones.weights import load_backbone, save_backbone
    from recognition.distributed.world import join_world, joined_world
    from recognition.embedding.embedder import Embedder
    from recognition.embedding.models import load_embedder
    from recognition.heads.margins import AdaFace, ArcFace, CombinedMargin, CosFace, CurricularFace, SphereFace
    from recognition.heads.saving import load_head, save_head
    from recognition.heads.sharded_softmax import ShardedSoftmax


def __getattr__(name: str) -> Any:
    """Import the module that holds the public name `name` (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'recognition' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
