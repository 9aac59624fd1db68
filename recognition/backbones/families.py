"""Whose weights these are, for people: read off the names of some keys."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A kind of network by keys that all its members have and keys that none has."""

    name: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()


FAMILIES = (
    Family("insightface's IResNet", ("conv1.weight", "prelu.weight", "layer1.0.bn3.weight")),
    Family("insightface's MobileFaceNet", ("conv_sep.layers.0.weight", "features.layers.3.weight")),
    Family("CVLface's ViT with KP-RPE", ("patch_embed.proj.weight", "blocks.0.attn.rpe_k.lookup_table_weight")),
    Family("insightface's ViT", ("patch_embed.proj.weight", "pos_embed", "feature.0.weight")),
    Family("IR-SE of AdaFace, TFace or CVLface", ("input_layer.0.weight", "body.0.res_layer.se_block.fc1.weight")),
    Family("IR with bottlenecks (152 or 200 layers)", ("input_layer.0.weight", "body.0.res_layer.7.weight")),
    Family("IR of AdaFace, TFace or CVLface", ("input_layer.0.weight", "body.0.res_layer.0.weight")),
    Family("a MobileNetV2 with a neck", ("features.0.0.weight", "features.18.0.weight", "neck.0.weight")),
    Family("torchvision's MobileNetV2", ("features.0.0.weight", "features.18.0.weight")),
    Family("torchvision's ResNet", ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"), ("prelu.weight",)),
    Family("a ViT with a class token, as in timm", ("cls_token", "patch_embed.proj.weight")),
    Family("torchvision's ViT", ("class_token", "conv_proj.weight")),
    Family("a Swin transformer", ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight")),
    Family("facenet-pytorch's InceptionResnetV1", ("conv2d_1a.conv.weight", "last_linear.weight")),
    Family("timm's EfficientNet", ("conv_stem.weight", "blocks.0.0.conv_dw.weight")),
)


def guess_family(keys: Collection[str]) -> str | None:
    """Return the family that weights with these keys seem to be of, under whatever prefix; None for an unknown one."""
    for family in FAMILIES:
        anchor = family.has[0]
        for prefix in {key.removesuffix(anchor) for key in keys if key == anchor or key.endswith(f".{anchor}")}:
            if all(prefix + key in keys for key in family.has) and not any(
                prefix + key in keys for key in family.lacks
            ):
                return family.name
    return None
