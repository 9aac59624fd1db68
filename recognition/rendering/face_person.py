"""Synthetic people: what stays the same in every picture of a person, as a pure function of (seed, index).

Lengths are in face units: the eyes lie on y = 0, x points right, y down, and half a face is about one unit wide.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

HAIR_STYLES = ("bald", "buzz", "short", "fringe", "parted_left", "parted_right", "long", "curly", "mohawk")
BEARDS = ("none", "none", "none", "moustache", "goatee", "full")

_DARK_SKIN, _LIGHT_SKIN = np.array([96.0, 62.0, 46.0]), np.array([238.0, 202.0, 178.0])
_HAIR_COLORS = np.array(
    [[28, 22, 20], [58, 38, 26], [96, 62, 34], [150, 108, 60], [205, 170, 110], [140, 60, 30], [150, 150, 150]], float
)


@dataclass(frozen=True)
class Person:
    """The traits of one person; each float is drawn uniformly from the range in its comment."""

    skin: np.ndarray  # RGB
    hair_color: np.ndarray
    iris_color: np.ndarray
    lip_color: np.ndarray
    face_width: float  # 0.80 1.14
    cheek: float  # 0.80 1.06   width at the nose's tip, as a share of face_width
    jaw: float  # 0.50 0.94   width at the mouth, likewise
    chin_width: float  # 0.12 0.56
    chin_y: float  # 1.44 1.76
    eye_x: float  # 0.35 0.60
    eye_width: float  # 0.14 0.28
    eye_height: float  # 0.05 0.16
    eye_tilt: float  # -0.5 0.5
    lid: float  # 0.02 0.07
    iris: float  # 0.07 0.115
    brow_gap: float  # 0.08 0.34
    brow_length: float  # 0.18 0.38
    brow_thickness: float  # 0.02 0.14
    brow_arch: float  # -0.06 0.14
    brow_tilt: float  # -0.5 0.5
    nose_y: float  # 0.38 0.68
    nose_width: float  # 0.10 0.36
    bridge: float  # 0.04 0.13
    nostril: float  # 0.02 0.055
    mouth_y: float  # 0.84 1.16
    mouth_width: float  # 0.20 0.52
    upper_lip: float  # 0.02 0.14
    lower_lip: float  # 0.03 0.18
    cupid: float  # 0.0 0.05
    hairline: float  # -1.10 -0.62
    volume: float  # 0.04 0.34
    ear: float  # 0.12 0.30
    ear_y: float  # 0.02 0.34
    wrinkle: float  # -0.6 1.0   strength of forehead and cheek lines; none below zero
    eye_bag: float  # -0.6 1.0
    hair_style: str
    beard: str
    moles: np.ndarray  # [m, 3]: x, y, radius
    scar: np.ndarray  # [0 or 2, 2]: its ends
    freckles: np.ndarray  # [k, 2]


def make_person(seed: int, index: int) -> Person:
    """Return person `index` of the population `seed`; any two indices are independent of each other."""
    rng = np.random.default_rng((seed, index))
    traits: dict[str, object] = {}
    for field, (low, high) in _RANGES.items():
        traits[field] = float(rng.uniform(low, high))
    tone = rng.uniform()
    skin = _DARK_SKIN + tone * (_LIGHT_SKIN - _DARK_SKIN) + rng.normal(0, 5, 3)
    hair = _HAIR_COLORS[rng.integers(len(_HAIR_COLORS))] + rng.normal(0, 8, 3)
    lips = skin * (0.82, 0.58, 0.6) + rng.normal(0, 8, 3)
    moles = rng.uniform((-0.75, -0.6, 0.025), (0.75, 1.35, 0.06), (rng.poisson(1.2), 3))
    start = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.5, 1.2)])
    scar = np.stack([start, start + rng.normal(0, 0.25, 2)]) if rng.uniform() < 0.2 else np.zeros((0, 2))
    freckles = rng.uniform((-0.65, 0.15), (0.65, 0.7), (rng.integers(10, 40) if rng.uniform() < 0.25 else 0, 2))
    return Person(
        skin=np.clip(skin, 20, 250),
        hair_color=np.clip(hair, 5, 250),
        iris_color=np.clip(rng.uniform((20, 40, 20), (130, 140, 170)), 0, 255),
        lip_color=np.clip(lips, 10, 250),
        hair_style=HAIR_STYLES[rng.integers(len(HAIR_STYLES))],
        beard=BEARDS[rng.integers(len(BEARDS))],
        moles=moles,
        scar=scar,
        freckles=freckles,
        **traits,  # type: ignore[arg-type]
    )


_RANGES = {
    "face_width": (0.80, 1.14),
    "cheek": (0.80, 1.06),
    "jaw": (0.50, 0.94),
    "chin_width": (0.12, 0.56),
    "chin_y": (1.44, 1.76),
    "eye_x": (0.35, 0.60),
    "eye_width": (0.14, 0.28),
    "eye_height": (0.05, 0.16),
    "eye_tilt": (-0.5, 0.5),
    "lid": (0.02, 0.07),
    "iris": (0.07, 0.115),
    "brow_gap": (0.08, 0.34),
    "brow_length": (0.18, 0.38),
    "brow_thickness": (0.02, 0.14),
    "brow_arch": (-0.06, 0.14),
    "brow_tilt": (-0.5, 0.5),
    "nose_y": (0.38, 0.68),
    "nose_width": (0.10, 0.36),
    "bridge": (0.04, 0.13),
    "nostril": (0.02, 0.055),
    "mouth_y": (0.84, 1.16),
    "mouth_width": (0.20, 0.52),
    "upper_lip": (0.02, 0.14),
    "lower_lip": (0.03, 0.18),
    "cupid": (0.0, 0.05),
    "hairline": (-1.10, -0.62),
    "volume": (0.04, 0.34),
    "ear": (0.12, 0.30),
    "ear_y": (0.02, 0.34),
    "wrinkle": (-0.6, 1.0),
    "eye_bag": (-0.6, 1.0),
}
assert set(_RANGES) == {field.name for field in fields(Person) if field.type == "float"}
