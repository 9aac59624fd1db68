"""Networks from pixels to embeddings, under the names and state-dict keys of insightface."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import nn

from recognition.backbones.iresnet import DEPTHS, IResNet
from recognition.backbones.mobilefacenet import MobileFaceNet
from recognition.backbones.tiny import TinyIResNet
from recognition.errors import ConfigError
from recognition.registry import Registry

BACKBONES: Registry[Callable[..., nn.Module]] = Registry("backbone.network")
"""Name in YAML -> builder(*, embedding_size, dropout, image_size)."""

for _name, _depths in DEPTHS.items():
    BACKBONES.register(_name)(functools.partial(IResNet, _depths))
BACKBONES.register("mbf")(MobileFaceNet)
BACKBONES.register("tiny")(TinyIResNet)


def build_backbone(
    network: str, *, embedding_size: int = 512, dropout: float = 0.0, image_size: int = 112
) -> nn.Module:
    """Build the network named `network` with fresh weights from torch's generator.

    forward(images [B, 3, image_size, image_size] in [-1, 1]) -> embeddings [B, embedding_size] float32, not normalized.
    It never turns autocast on: the caller's autocast covers the convolutions, the last layers leave it. Under
    `torch.device("meta")` nothing is allocated. Raises ConfigError for an unknown name or an impossible size.
    """
    if embedding_size < 1 or image_size < 16:
        raise ConfigError(
            f"backbone: embedding_size {embedding_size} and image_size {image_size}; "
            "expected at least 1 and 16; correct backbone.embedding_size or data.image_size"
        )
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"backbone.dropout: {dropout!r} is outside [0, 1); correct it")
    return BACKBONES[network](embedding_size=embedding_size, dropout=dropout, image_size=image_size)
