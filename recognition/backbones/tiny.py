"""The network of the demo and the tests: small enough to learn faces on one CPU core."""

from __future__ import annotations

from recognition.backbones.iresnet import IResNet


class TinyIResNet(IResNet):
    """IResNet with one unit per stage, a strided stem and 16 to 128 channels: 306,352 convolution weights."""

    def __init__(self, *, embedding_size: int = 512, dropout: float = 0.0, image_size: int = 112) -> None:
        super().__init__(
            (1, 1, 1, 1),
            embedding_size=embedding_size,
            dropout=dropout,
            image_size=image_size,
            widths=(16, 32, 64, 128),
            # Not narrower: with 8 channels into a strided 1x1, torch 2.13's channels_last backward crashes on CPUs.
            stem_width=16,
            stem_stride=2,
        )
