"""Networks from pixels to embeddings, under the names and state-dict keys of insightface."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from recognition.backbones import ir, iresnet, mobilefacenet, mobilenet_v2, small, vit
from recognition.errors import ConfigError
from recognition.registry import Registry, nearest

BACKBONES: Registry[Callable[..., nn.Module]] = Registry("backbone.network")
"""Name in YAML -> builder(*, embedding_size, dropout, image_size, and options of its own)."""

Option = bool | int | float | str
"""The value of a network's own option: what YAML and JSON hold alike."""

_SHARED = frozenset({"embedding_size", "dropout", "image_size"})

TRAINING_OPTIONS = frozenset({"drop_path", "mask_ratio", "activation_checkpointing"})
"""Options that act in training alone: the same weights fit whatever they are."""

_SHARES = ("dropout", "drop_path", "mask_ratio")

# A family is a file with its `NETWORKS` and its place here.
for _family in (iresnet, mobilefacenet, small, vit, ir, mobilenet_v2):
    for _name, _builder in _family.NETWORKS.items():
        BACKBONES.register(_name)(_builder)


def build_backbone(
    network: str, *, embedding_size: int = 512, dropout: float = 0.0, image_size: int = 112, **options: Option
) -> nn.Module:
    """Build the network named `network` with fresh weights from torch's generator.

    `options` are arguments of this network's builder alone. forward(images [B, 3, image_size, image_size] in [-1, 1])
    -> embeddings [B, embedding_size] float32, not normalized. It never turns autocast on: the caller's autocast covers
    the convolutions, the last layers leave it. Under `torch.device("meta")` nothing is allocated. Raises ConfigError
    for an unknown name, an impossible size, or an option that the network does not have.
    """
    if embedding_size < 1 or image_size < 16:
        raise ConfigError(
            f"backbone: embedding_size {embedding_size} and image_size {image_size}; "
            "expected at least 1 and 16; correct backbone.embedding_size or data.image_size"
        )
    for name in _SHARES:
        share = dropout if name == "dropout" else options.get(name, 0.0)
        if not isinstance(share, (int, float)) or not 0.0 <= share < 1.0:
            raise ConfigError(f"backbone.{name}: {share!r} is outside [0, 1); correct it")
    known = network_options(network)
    for name in options:
        if name not in known:
            hint = nearest(name, known) if known else "; it has none"
            raise ConfigError(f"backbone.network {network!r}: has no option {name!r}{hint}")
    return BACKBONES[network](embedding_size=embedding_size, dropout=dropout, image_size=image_size, **options)


def network_options(network: str) -> frozenset[str]:
    """Return the names of the options that only this network has: its builder's other keyword-only arguments."""
    parameters = inspect.signature(BACKBONES[network]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY) - _SHARED
