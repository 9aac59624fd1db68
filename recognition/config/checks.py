"""What a config's values may be, alone and together. A value that would be ignored is an error, not a surprise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from recognition.config.fields import flatten
from recognition.config.schema import Config
from recognition.errors import ConfigError

Range = tuple[Callable[[Any], bool], str]


def _at_least(low: float) -> Range:
    return lambda value: value >= low, f"at least {low}"


def _within(low: int, high: int) -> Range:
    return lambda value: low <= value <= high, f"between {low} and {high:,}"


def _above(low: float) -> Range:
    return lambda value: value > low, f"above {low}"


def _share() -> Range:
    return lambda value: 0 <= value <= 1, "between 0 and 1"


def _below_one() -> Range:
    return lambda value: 0 <= value < 1, "at least 0 and below 1"


def _each(range_: Range, text: str) -> Range:
    return lambda values: all(range_[0](value) for value in values), text


AUGMENTATIONS = ("crop", "misalign", "shift", "low_resolution", "blur", "color", "gray", "occlusion", "mask", "jpeg")

RANGES: Mapping[str, Range] = {
    "seed": (lambda value: 0 <= value < 2**63, "between 0 and 2^63 - 1"),
    "data.num_classes": _within(2, 2**32),
    "data.num_image": _within(1, 2**48),
    "data.image_size": _within(16, 4096),
    "data.num_workers": _within(0, 512),
    "data.num_threads": _within(1, 512),
    "data.shuffle_block": _at_least(1),
    "data.images_per_identity": _at_least(2),
    "data.flip": _share(),
    "data.max_bad_records": _at_least(1),
    **{f"augment.{name}": _share() for name in AUGMENTATIONS},
    "backbone.embedding_size": _within(1, 2**16),
    "backbone.dropout": _below_one(),
    "head.margins": (
        lambda m: m[0] > 0 and 0 <= m[1] < math.pi and 0 <= m[2] <= 2,
        "m1 above 0, m2 at least 0 and below pi, m3 between 0 and 2",
    ),
    "head.scale": _above(0),
    "head.block_size": _at_least(1),
    "head.sample_rate": _share(),
    "head.lr_factor": _above(0),
    "head.sub_centers": _at_least(1),
    "head.init_images": _at_least(1),
    "head.interclass_filtering_threshold": _share(),
    "optim.lr": _above(0),
    "optim.reference_batch": _at_least(1),
    "optim.momentum": _below_one(),
    "optim.weight_decay": _at_least(0),
    "optim.poly_power": _above(0),
    "optim.warmup_epoch": _at_least(0),
    "optim.clip_norm": _at_least(0),
    "optim.betas": _each(_below_one(), "two numbers, each at least 0 and below 1"),
    "train.batch_size": _within(1, 2**20),
    "train.num_epoch": _at_least(1),
    "train.gradient_accumulation": _at_least(1),
    "train.max_refused_steps": _at_least(1),
    "train.timeout_s": _above(0),
    "validation.every_steps": _at_least(1),
    "validation.batch_size": _at_least(1),
    "checkpoint.every_epochs": _at_least(1),
    "checkpoint.every_steps": _at_least(1),
    "checkpoint.keep": _at_least(1),
    "checkpoint.max_failures": _at_least(1),
    "log.every_steps": _at_least(1),
    "log.wandb": (lambda name: bool(name.strip()), "the name of a project, or null"),
}


def check_config(config: Config, places: Mapping[str, str] | None = None) -> None:
    """Raise ConfigError for the first value out of range or combination that cannot be, or would be ignored.

    `places` says where each dotted key was set; a key not in it is at its default.
    """
    places = places or {}
    flat = flatten(config)
    for key, (holds, expected) in RANGES.items():
        value = flat[key]
        if value is not None and not holds(value):
            raise ConfigError(f"{_place(places, key)}{key}: found {_spell(value)}, expected {expected}; correct it")
    for key, problem in _problems(config, _Changed(flat)):
        raise ConfigError(f"{_place(places, key)}{key}: {problem}")


class _Changed:
    """Which keys differ from their default: only those can be missed when they are ignored."""

    def __init__(self, flat: Mapping[str, Any]) -> None:
        self._flat = flat
        self._defaults = flatten(Config())

    def __contains__(self, key: str) -> bool:
        return bool(self._flat[key] != self._defaults[key])


def _problems(config: Config, changed: _Changed) -> Iterator[tuple[str, str]]:
    yield from _data_problems(config)
    if config.data.on_bad_record == "raise" and "data.max_bad_records" in changed:
        yield (
            "data.max_bad_records",
            "would be ignored with data.on_bad_record raise; set data.on_bad_record: skip or remove this key",
        )
    yield from _head_problems(config, changed)
    yield from _optim_problems(config, changed)
    if not config.validation.val_targets:
        for key in ("validation.val_dir", "validation.every_steps", "validation.batch_size"):
            if key in changed:
                yield key, "would be ignored without validation.val_targets; name them or remove this key"


def _data_problems(config: Config) -> Iterator[tuple[str, str]]:
    if config.data.rec == "synthetic":
        for name in ("num_classes", "num_image"):
            if getattr(config.data, name) is None:
                yield "data.rec", f"'synthetic' has no sizes of its own; state data.{name}"
        if config.data.more_rec:
            yield "data.more_rec", "would be ignored with data.rec 'synthetic'; remove this key"
    if config.data.images_per_identity is not None and config.data.shuffle_block > 1:
        yield "data.shuffle_block", "would be ignored with data.images_per_identity, which draws images by person"
    targets = config.validation.val_targets
    if any(not target for target in targets) or len(set(targets)) != len(targets):
        yield "validation.val_targets", f"found {_spell(targets)}, expected distinct names"


def _head_problems(config: Config, changed: _Changed) -> Iterator[tuple[str, str]]:
    head = config.head
    if head.update != "autograd" and config.train.gradient_accumulation > 1:
        yield (
            "train.gradient_accumulation",
            (
                f"cannot be {config.train.gradient_accumulation} with head.update {head.update}, which moves "
                "the centers in every micro-batch; set head.update: autograd"
            ),
        )
    if head.update == "autograd":
        for key in ("head.centers_format", "head.momentum_format"):
            if key in changed:
                yield key, "would be ignored with head.update autograd, whose state is float32; set head.update: fused"
    if head.init == "class_means" and config.init_from is None:
        yield "head.init", "class_means needs a network that knows faces; set init_from, or head.init: random"
    if head.init == "random" and "head.init_images" in changed:
        yield "head.init_images", "would be ignored with head.init random; set class_means or remove this key"
    if head.negatives == "nearest" and head.sample_rate == 1:
        yield "head.negatives", "would be ignored with head.sample_rate 1, where every class is used; lower the rate"
    if head.margin_gradient == "exact" and head.margins[:2] == (1.0, 0.0):
        yield (
            "head.margin_gradient",
            ("would be ignored with m1 = 1 and m2 = 0, whose derivative is 1 either way; remove this key"),
        )


def _optim_problems(config: Config, changed: _Changed) -> Iterator[tuple[str, str]]:
    optim = config.optim
    if optim.optimizer == "sgd" and "optim.betas" in changed:
        yield "optim.betas", "would be ignored with optim.optimizer sgd; set optim.optimizer: adamw or remove this key"
    if optim.optimizer == "adamw" and config.head.update == "autograd" and "optim.momentum" in changed:
        yield (
            "optim.momentum",
            ("would be ignored with optim.optimizer adamw and head.update autograd: nothing runs SGD; remove this key"),
        )
    if optim.schedule == "cosine" and "optim.poly_power" in changed:
        yield "optim.poly_power", "would be ignored with optim.schedule cosine; remove this key"
    if optim.warmup_epoch >= config.train.num_epoch:
        yield (
            "optim.warmup_epoch",
            (f"found {optim.warmup_epoch:g}, expected less than train.num_epoch, which is {config.train.num_epoch}"),
        )


def _place(places: Mapping[str, str], key: str) -> str:
    return f"{places[key]}: " if key in places else ""


def _spell(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_spell(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else repr(value)
