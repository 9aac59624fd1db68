"""Which network, of which sizes: all that it takes to build the module that weights fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from recognition.backbones import Option, build_backbone, network_options
from recognition.config.schema import BackboneConfig


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
        nothing but its line in the schema.
        """
        known = network_options(section.network)
        options = {name: value for name, value in vars(section).items() if name in known and value is not None}
        return cls(section.network, section.embedding_size, image_size, options)

    def build(self, *, dropout: float = 0.0) -> nn.Module:
        """Build it with fresh weights, as `build_backbone` does."""
        return build_backbone(
            self.network,
            embedding_size=self.embedding_size,
            dropout=dropout,
            image_size=self.image_size,
            **self.options,
        )

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
