"""Which network, of which sizes: all that it takes to build the module that weights fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from recognition.backbones import TRAINING_OPTIONS, Option, build_backbone, network_options
from recognition.config.schema import BackboneConfig
from recognition.errors import ConfigError


@dataclass(frozen=True)
class Architecture:
    """A network by name, its sizes, and its own options."""

    network: str
    embedding_size: int = 512
    image_size: int = 112
    """Side of the square images in pixels."""
    options: Mapping[str, Option] = field(default_factory=dict)

    @classmethod
    def of(cls, section: BackboneConfig, image_size: int) -> Architecture:
        """Return the architecture that a config's `backbone` asks for; ConfigError for an unknown network.

        Each key of the section that this network's builder takes as an option is one, so that a network's own key needs
        nothing but its line in the schema, where its default is null. ConfigError for one that it does not have.
        """
        options = _own_options(section)
        shaping = {name: value for name, value in options.items() if name not in TRAINING_OPTIONS}
        return cls(section.network, section.embedding_size, image_size, shaping)

    def build(self, **training: Option) -> nn.Module:
        """Build it with fresh weights, as `build_backbone` does; `training` is dropout and what else acts there."""
        arguments: dict[str, Any] = {**self.options, **training}
        return build_backbone(self.network, embedding_size=self.embedding_size, image_size=self.image_size, **arguments)

    def by_key(self) -> dict[str, Option]:
        """Return the values by the keys of a config."""
        options = {f"backbone.{name}": value for name, value in sorted(self.options.items())}
        return {
            "backbone.network": self.network,
            "backbone.embedding_size": self.embedding_size,
            "data.image_size": self.image_size,
            **options,
        }

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.by_key().items())


def training_options(section: BackboneConfig) -> dict[str, Option]:
    """Return what of a config's `backbone` acts in training alone and is no part of the weights' architecture."""
    own = {name: value for name, value in _own_options(section).items() if name in TRAINING_OPTIONS}
    return {"dropout": section.dropout, **own}


def layers_of(backbone: nn.Module, network: str) -> list[list[nn.Parameter]]:
    """Return the parameters of each layer, the first one's first; ConfigError for a network that does not say them."""
    layers = getattr(backbone, "layers", None)
    if not callable(layers):
        raise ConfigError(
            f"optim.layer_decay: would be ignored by network {network!r}, which has no layers of its own to tell "
            "apart; expected a ViT; remove this key"
        )
    found: list[list[nn.Parameter]] = layers()
    return found


def _own_options(section: BackboneConfig) -> dict[str, Option]:
    """Return the options of this network alone that the section states, after a check that it has all of them."""
    known = network_options(section.network)
    options = {}
    for entry in fields(section):
        value = getattr(section, entry.name)
        if value is not None and entry.name in known:
            options[entry.name] = value
        elif value is not None and entry.default is None:
            raise ConfigError(
                f"backbone.{entry.name}: would be ignored by network {section.network!r}, which has no such option; "
                "remove this key"
            )
    return options
