"""The margins by their names in a config; each is one file of this folder and one line here."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from recognition.errors import ConfigError
from recognition.heads.margins.adacos import AdaCos
from recognition.heads.margins.adaface import AdaFace
from recognition.heads.margins.arcface import ArcFace
from recognition.heads.margins.asoftmax import ASoftmax
from recognition.heads.margins.circle import CircleLoss
from recognition.heads.margins.combined import CombinedMargin
from recognition.heads.margins.cosface import CosFace
from recognition.heads.margins.curricularface import CurricularFace
from recognition.heads.margins.elasticface import ElasticFace
from recognition.heads.margins.ldam import Ldam
from recognition.heads.margins.lsoftmax import LSoftmax
from recognition.heads.margins.magface import MagFace
from recognition.heads.margins.mvsoftmax import MVSoftmax
from recognition.heads.margins.none import NoMargin
from recognition.heads.margins.protocol import Margin
from recognition.heads.margins.rows import Facts, OwnRows, Shaped, State
from recognition.heads.margins.softmax import Softmax
from recognition.heads.margins.sphereface import SphereFace
from recognition.heads.margins.sphereface2 import SphereFace2
from recognition.heads.margins.spherefacer import SphereFaceR
from recognition.heads.margins.uniface import UniFace
from recognition.registry import Registry, nearest

__all__ = [
    "MARGINS",
    "ASoftmax",
    "AdaCos",
    "AdaFace",
    "ArcFace",
    "CircleLoss",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "ElasticFace",
    "Facts",
    "LSoftmax",
    "Ldam",
    "MVSoftmax",
    "MagFace",
    "Margin",
    "NoMargin",
    "OwnRows",
    "Shaped",
    "Softmax",
    "SphereFace",
    "SphereFace2",
    "SphereFaceR",
    "State",
    "UniFace",
    "make_margin",
]

MARGINS: Registry[type[Margin]] = Registry("margin")
MARGINS.register("adacos")(AdaCos)
MARGINS.register("adaface")(AdaFace)
MARGINS.register("arcface")(ArcFace)
MARGINS.register("asoftmax")(ASoftmax)
MARGINS.register("circle")(CircleLoss)
MARGINS.register("combined")(CombinedMargin)
MARGINS.register("cosface")(CosFace)
MARGINS.register("curricularface")(CurricularFace)
MARGINS.register("elasticface")(ElasticFace)
MARGINS.register("ldam")(Ldam)
MARGINS.register("lsoftmax")(LSoftmax)
MARGINS.register("magface")(MagFace)
MARGINS.register("mvsoftmax")(MVSoftmax)
MARGINS.register("none")(NoMargin)
MARGINS.register("softmax")(Softmax)
MARGINS.register("sphereface")(SphereFace)
MARGINS.register("sphereface2")(SphereFace2)
MARGINS.register("spherefacer")(SphereFaceR)
MARGINS.register("uniface")(UniFace)


def make_margin(name: str, settings: Mapping[str, Any], *, where: Callable[[str], str] = lambda _: "") -> Margin:
    """Return the margin `name` with `settings`; ConfigError for an unknown name or setting, or a value it cannot be.

    `where` gives the opening of a message about a setting, "name", or "" for all of it.
    """
    if name not in MARGINS:
        raise ConfigError(f"{where('name')}name: found {name!r}, expected a margin{nearest(name, MARGINS)}")
    kind = MARGINS[name]
    known = inspect.signature(kind).parameters  # without what `bind` fills in
    hints = typing.get_type_hints(kind.__init__)
    for key, value in settings.items():
        if key not in known:
            hint = nearest(key, known) if known else "; it has none"
            raise ConfigError(f"{where(key)}{key}: unknown setting of margin {name!r}{hint}")
        problem = _problem(value, hints[key])
        if problem is not None:
            raise ConfigError(f"{where(key)}{key}: found {value!r}, expected {problem}; correct it")
    try:
        return kind(**settings)
    except ConfigError as err:
        raise ConfigError(f"{where('')}{err}") from err


def _problem(value: Any, kind: Any) -> str | None:
    """Return what was expected of `value` when it is not of the annotation `kind`."""
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        return None if value in choices else f"one of {', '.join(choices)}"
    if kind is float:
        return None if type(value) in (int, float) else "a number"
    names = {int: "a whole number", bool: "true or false", str: "text"}
    return None if type(value) is kind else names[kind]
