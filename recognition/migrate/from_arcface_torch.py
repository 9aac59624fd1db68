"""Write an arcface_torch config as one of ours, key by key. The old file is parsed, never executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from recognition.config.arcface_keys import COUNTERPARTS, WITHOUT_COUNTERPART
from recognition.config.checks import check_config
from recognition.config.fields import all_keys, build, flatten
from recognition.config.schema import Config
from recognition.config.yaml_nodes import ListValue, MappingValue, ScalarValue, Value
from recognition.errors import ConfigError
from recognition.migrate.python_config import Setting
from recognition.registry import nearest


@dataclass
class Conversion:
    """What became of a config."""

    config: Config
    stated: list[str]
    """Our keys that the YAML states, in the schema's order."""
    notes: list[str] = field(default_factory=list)
    """What has no counterpart, or means something else here."""


def convert(settings: Mapping[str, Setting], name: str) -> Conversion:
    """Return our config for arcface_torch's settings; `name` stands for the file where no line can.

    Raises ConfigError for an unknown key, naming the nearest, and for values that our schema refuses, at their line.
    """
    notes: list[str] = []
    values: dict[str, Setting] = {}
    for key, setting in settings.items():
        if key in WITHOUT_COUNTERPART:
            # The key of an account must not travel into a second file.
            found = "" if key == "wandb_key" else f" = {setting.value!r}"
            notes.append(f"{key}{found}: left out: {WITHOUT_COUNTERPART[key]}")
        elif key == "using_wandb":
            pass  # decides about wandb_project below
        elif key in COUNTERPARTS:
            values[COUNTERPARTS[key]] = setting
        else:
            known = (*COUNTERPARTS, *WITHOUT_COUNTERPART)
            raise ConfigError(f"{setting.place}: config.{key}: unknown key{nearest(key, known)}")
    _settle_wandb(settings, values, notes)
    for adapt in _ADAPTATIONS:
        adapt(values, notes, name)
    places: dict[str, str] = {}
    config = build(Config, _tree(values, name), places)
    check_config(config, places)
    return Conversion(config, [key for key in all_keys() if key in places], notes)


def to_yaml(conversion: Conversion, source: str) -> str:
    """Return the YAML of a conversion: the notes as a head comment, then the stated keys."""
    flat = flatten(conversion.config)
    nested: dict[str, Any] = {}
    for key in conversion.stated:
        section, _, leaf = key.rpartition(".")
        value = list(flat[key]) if isinstance(flat[key], tuple) else flat[key]
        (nested.setdefault(section, {}) if section else nested)[leaf] = value
    name = " ".join(source.split())
    head = [f"# Converted from arcface_torch's {name}; keys not stated are at their default, see base.yaml."]
    head += [f"# {note}" for note in conversion.notes]
    body = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    return "\n".join(head) + "\n" + (body if nested else "")


Values = dict[str, Setting]


def _settle_wandb(settings: Mapping[str, Setting], values: Values, notes: list[str]) -> None:
    using = settings.get("using_wandb")
    project = values.get("log.wandb")
    if project and not (using and using.value is True):
        notes.append(f"wandb_project = {project.value!r}: left out: using_wandb is not True")
        del values["log.wandb"]
    elif using and using.value is True and not project:
        notes.append("using_wandb = True: left out: there is no wandb_project; set log.wandb to one")


def _adapt_precision(values: Values, notes: list[str], name: str) -> None:
    # arcface_torch's base turns fp16 off and ours turns bf16 on, so an absent key must be written out.
    setting = values.get("train.precision", Setting(False, name))
    if not isinstance(setting.value, bool):
        raise ConfigError(f"{setting.place}: config.fp16: found {setting.value!r}, expected True or False")
    values["train.precision"] = Setting("fp16" if setting.value else "off", setting.place)


def _adapt_warmup(values: Values, notes: list[str], name: str) -> None:
    setting = values.get("optim.warmup_epoch")
    if setting and isinstance(setting.value, (int, float)) and setting.value < 0:
        notes.append(f"warmup_epoch = {setting.value!r}: written as 0: both mean no warm-up")
        values["optim.warmup_epoch"] = Setting(0, setting.place)


def _adapt_validation(values: Values, notes: list[str], name: str) -> None:
    targets, verbose = values.get("validation.val_targets"), values.get("validation.every_steps")
    if verbose and (targets is None or targets.value == ()):
        notes.append(f"verbose = {verbose.value!r}: left out: without val_targets nothing is validated")
        del values["validation.every_steps"]


def _adapt_optimizer(values: Values, notes: list[str], name: str) -> None:
    optimizer, momentum = values.get("optim.optimizer"), values.get("optim.momentum")
    if optimizer and _uses_adamw(values):
        values["optim.decay_vectors"] = Setting(True, optimizer.place)  # all parameters are one group there
        if momentum:
            notes.append(f"momentum = {momentum.value!r}: left out: AdamW has none")
            del values["optim.momentum"]
    elif momentum and momentum.value != 0.9:
        notes.append(f"momentum = {momentum.value!r}: used here; arcface_torch ignores the key and runs with 0.9")


def _adapt_accumulation(values: Values, notes: list[str], name: str) -> None:
    setting = values.get("train.gradient_accumulation")
    if setting and isinstance(setting.value, int) and setting.value > 1:
        same = f"with SGD the same step needs {setting.value} times the lr"
        if _uses_adamw(values):
            same = "AdamW's step is the same for both"
        notes.append(
            f"gradient_acc = {setting.value}: gradients are averaged here and summed there: {same}; the schedule "
            "counts optimizer steps"
        )


def _uses_adamw(values: Values) -> bool:
    optimizer = values.get("optim.optimizer")
    return optimizer is not None and optimizer.value == "adamw"


def _sampled(values: Values) -> bool:
    rate = values.get("head.sample_rate")
    return rate is not None and rate.value != 1


def _adapt_sampling(values: Values, notes: list[str], name: str) -> None:
    if not _sampled(values):
        return
    rate = values["head.sample_rate"]
    if _uses_adamw(values):
        notes.append(
            f"sample_rate = {rate.value!r}: a class outside a step's sample rests here (head.unsampled: frozen); there "
            "it decays and follows its moments in every step"
        )
    else:
        values["head.unsampled"] = Setting("coast", rate.place)


def _note_what_is_fixed_there(values: Values, notes: list[str], name: str) -> None:
    """State, or note, what arcface_torch's trainer does without a key for it."""
    values["train.gradient_compression"] = Setting("fp16", name)
    warmup = values.get("optim.warmup_epoch")
    if warmup and warmup.value:
        notes.append(
            f"warmup_epoch = {warmup.value!r}: the very first step runs at the full lr there, at the first of the "
            "warm-up here"
        )
    if values["train.precision"].value == "fp16":
        notes.append("fp16 = True: the loss scale grows after 100 good steps there, after 2,000 here")


def _adapt_margins(values: Values, notes: list[str], name: str) -> None:
    setting = values.get("head.margins")
    if not setting or not isinstance(setting.value, tuple) or len(setting.value) != 3:
        return
    m1, m2, m3 = setting.value
    if m3 and (m1 != 1 or m2):
        notes.append(
            f"margin_list = {setting.value!r}: all three margins act here; arcface_torch takes m3 alone: to repeat its "
            f"run set head.margins: [1, 0, {m3}]"
        )


def _adapt_filter(values: Values, notes: list[str], name: str) -> None:
    setting = values.get("head.interclass_filtering_threshold")
    if setting and setting.value:
        notes.append(
            f"interclass_filtering_threshold = {setting.value!r}: a filtered negative is left out of the sum here; "
            "there it stays with a cosine of 0"
        )


def _adapt_reference(values: Values, notes: list[str], name: str) -> None:
    if "optim.lr" in values:
        notes.append(
            "lr: the number of GPUs it was chosen for is not in the file; optim.reference_batch = GPUs x batch_size "
            "lets the plan state the linear-scaling rule"
        )


def _adapt_network(values: Values, notes: list[str], name: str) -> None:
    from recognition.backbones import BACKBONES
    from recognition.backbones.vit import SHAPES

    setting = values.get("backbone.network")
    if not setting or not isinstance(setting.value, str):
        return
    if setting.value not in BACKBONES:
        notes.append(f"network = {setting.value!r}: not known here, so a run of this config stops at its start")
    shape = SHAPES.get(setting.value)
    if shape and shape.mask_ratio:
        values["backbone.mask_ratio"] = Setting(_MASKED_THERE, setting.place)
        notes.append(
            f"network = {setting.value!r}: arcface_torch hides {_MASKED_THERE:.0%} of the patches, whatever the name "
            f"says, so backbone.mask_ratio is {_MASKED_THERE}; the name stands for {shape.mask_ratio}"
        )
    if shape and shape.checkpointed:
        values["backbone.activation_checkpointing"] = Setting(True, setting.place)


_MASKED_THERE = 0.1
"""The ratio of arcface_torch's masks: its own default, since the network's is never handed on."""

_ADAPTATIONS: Sequence[Callable[[Values, list[str], str], None]] = (
    _adapt_precision,
    _adapt_warmup,
    _adapt_validation,
    _adapt_optimizer,
    _adapt_accumulation,
    _adapt_sampling,
    _adapt_margins,
    _adapt_filter,
    _adapt_reference,
    _adapt_network,
    _note_what_is_fixed_there,
)


def _tree(values: Values, name: str) -> MappingValue:
    entries: dict[str, Value] = {}
    sections: dict[str, dict[str, Setting]] = {}
    for key, setting in values.items():
        section, _, leaf = key.rpartition(".")
        if section:
            sections.setdefault(section, {})[leaf] = setting
        else:
            entries[leaf] = _value(setting.value, setting.place)
    places = {leaf: setting.place for leaf, setting in values.items() if "." not in leaf}
    for section, leaves in sections.items():
        entries[section] = MappingValue(
            {leaf: _value(setting.value, setting.place) for leaf, setting in leaves.items()},
            {leaf: setting.place for leaf, setting in leaves.items()},
            name,
        )
        places[section] = name
    return MappingValue(entries, places, name)


def _value(value: Any, place: str) -> Value:
    """Return a Python value as the YAML value it would be."""
    if isinstance(value, tuple):
        return ListValue(tuple(_value(item, place) for item in value), place)
    if isinstance(value, str):
        return ScalarValue(value, plain=False, place=place)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return ScalarValue(text, plain=True, place=place)
