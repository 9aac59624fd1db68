"""Draw one picture of a synthetic person: what differs between pictures is drawn from the generator handed in.

A face is a set of polygons on an ellipsoid that is turned, projected and painted back to front; light, occlusion, blur,
noise and JPEG follow. The differences between pictures of one person are made larger, in pixels and in colors, than
those between people: the shape of the features is what tells people apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from recognition.images.codec import encode_jpeg
from recognition.rendering.face_person import Person

_UNIT_PX, _CENTER = 36.0, (56.0, 51.6)  # at 112 pixels, so that the eyes and mouth lie near the ArcFace template
_SUBPIXEL_BITS = 4
_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_ALONG = np.linspace(-1, 1, 11)
_HAIR_CAP = np.array(
    [
        [-1.02, -0.15],
        [-1.04, -0.7],
        [-0.78, -1.12],
        [-0.4, -1.26],
        [0.0, -1.28],
        [0.4, -1.26],
        [0.78, -1.12],
        [1.04, -0.7],
        [1.02, -0.15],
    ]
)


@dataclass(frozen=True)
class Shot:
    """What one picture adds to a person: pose, expression and the colors of the moment."""

    rotation: np.ndarray  # [3, 3]
    scale: float
    center: np.ndarray
    smile: float
    open_mouth: float
    open_eyes: float
    raised_brows: float
    gaze: np.ndarray
    hair_tint: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int) -> Shot:
        """Draw a pose and an expression for a picture of `size` pixels."""
        yaw, pitch, roll = np.clip(rng.normal(0, (10, 5, 4)), (-25, -13, -10), (25, 13, 10)) * np.pi / 180
        ratio = size / 112
        return cls(
            rotation=_rotation(yaw, pitch, roll),
            scale=_UNIT_PX * ratio * rng.uniform(0.95, 1.05),
            center=(np.array(_CENTER) + rng.uniform(-2, 2, 2)) * ratio,
            smile=rng.normal(0, 0.04),
            open_mouth=max(0.0, rng.normal(-0.03, 0.06)),
            open_eyes=rng.uniform(0.82, 1.1),
            raised_brows=rng.normal(0, 0.02),
            gaze=rng.normal(0, (0.03, 0.01)),
            hair_tint=rng.normal(0, 10) + rng.normal(0, 5, 3),
        )


def render(person: Person, rng: np.random.Generator, size: int = 112) -> tuple[bytes, np.ndarray]:
    """Return a JPEG of `size` x `size` pixels and its true landmarks [5, 2]: eyes, nose, corners of the mouth.

    Left and right are those of the picture, as everywhere in the field.
    """
    shot = Shot.draw(rng, size)
    sketch = _Sketch(shot, _background(rng, size))
    _draw_behind(sketch, person, rng)
    _draw_skin(sketch, person)
    landmarks = _draw_features(sketch, person)
    _draw_hair_front(sketch, person)
    _occlude(sketch, person, rng)
    picture = _develop(sketch.image, shot, rng)
    return encode_jpeg(picture, int(rng.integers(60, 96))), landmarks


class _Sketch:
    """A picture being painted, in face units."""

    def __init__(self, shot: Shot, image: np.ndarray) -> None:
        self.shot = shot
        self.image = image

    def project(self, points: np.ndarray, lift: float = 0.0, flat: float | None = None) -> np.ndarray:
        """Return pixels [n, 2] of points [n, 2] on the head's surface, `lift` above it, or on the plane z = `flat`."""
        x, y = points[:, 0], points[:, 1]
        if flat is None:
            u, v = x / 1.12, (y - 0.15) / 1.65
            depth = lift + 0.85 * np.sqrt(np.maximum(0.0, 1 - u * u - v * v))
        else:
            depth = np.full(len(x), flat)
        rotation, scale = self.shot.rotation, self.shot.scale
        y = y - 0.2  # the neck's pivot
        pixels = np.empty((len(x), 2))
        for axis in (0, 1):
            turned = rotation[axis, 0] * x + rotation[axis, 1] * y + rotation[axis, 2] * depth
            pixels[:, axis] = turned * scale + self.shot.center[axis]
        pixels[:, 1] += 0.2 * scale
        return pixels

    def fill(self, points: np.ndarray, color: np.ndarray, *, lift: float = 0.0, flat: float | None = None) -> None:
        """Fill the polygon of points on the head."""
        self.fill_pixels(self.project(points, lift, flat), color)

    def fill_pixels(self, pixels: np.ndarray, color: np.ndarray) -> None:
        """Fill a polygon given in pixels."""
        fixed = (pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(self.image, [fixed], color.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)

    def spots(self, centers: np.ndarray, radii: np.ndarray, color: np.ndarray) -> None:
        """Paint dots at points on the head."""
        if len(centers) == 0:
            return
        one = 1 << _SUBPIXEL_BITS
        fixed = (self.project(centers) * one).astype(np.int32).tolist()
        for center, radius in zip(fixed, (radii * self.shot.scale * one).astype(np.int32).tolist()):
            cv2.circle(self.image, center, radius, color.tolist(), cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)

    def stroke(self, points: np.ndarray, color: np.ndarray, width: float, *, lift: float = 0.0) -> None:
        """Fill a band of constant width along a curve; it may be thinner than any line OpenCV draws."""
        pixels = self.project(points, lift)
        padded = np.concatenate([pixels[:1], pixels, pixels[-1:]])
        along = padded[2:] - padded[:-2]
        half = along[:, ::-1] * (-1, 1)
        half *= width * self.shot.scale / 2 / (np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9)
        self.fill_pixels(np.concatenate([pixels + half, (pixels - half)[::-1]]), color)


def _draw_behind(sketch: _Sketch, person: Person, rng: np.random.Generator) -> None:
    clothes = rng.uniform(0, 255, 3)
    shoulders = np.array([[-2.2, 2.6], [-1.5, 1.95], [-0.5, 1.7], [0.5, 1.7], [1.5, 1.95], [2.2, 2.6]])
    sketch.fill(shoulders, clothes, flat=-0.6)
    neck = np.array([[-0.5, 0.9], [0.5, 0.9], [0.55, 1.9], [0.0, 2.15], [-0.55, 1.9]])
    sketch.fill(neck, person.skin * 0.78, flat=-0.3)
    hair = _hair(sketch, person)
    width, top = person.face_width + person.volume, -1.25 - person.volume
    if person.hair_style == "long":
        shape = np.array([[0.0, top], [0.75, top + 0.15], [1, -0.4], [1.02, 0.6], [1.0, 1.7], [0.5, 1.8]])
        sketch.fill(_mirrored(shape * (width, 1)), hair, flat=-0.25)
    elif person.hair_style == "curly":
        bumps = _CIRCLE * (0.93 + 0.08 * np.cos(9 * _ANGLES))[:, None]
        sketch.fill(bumps * (width + 0.12, 1.1 + person.volume) + (0, -0.45), hair, flat=-0.1)
    for side in (-1, 1):
        ear = _CIRCLE * (person.ear * 0.55, person.ear) + (side * person.face_width * 1.0, person.ear_y)
        sketch.fill(ear, person.skin * 0.86, flat=0.05)
        sketch.fill((ear - ear.mean(axis=0)) * 0.5 + ear.mean(axis=0), person.skin * 0.68, flat=0.05)


def _draw_skin(sketch: _Sketch, person: Person) -> None:
    sketch.fill(_face_outline(person), person.skin)
    if person.beard in ("full", "goatee"):
        _draw_beard(sketch, person)
    sketch.spots(person.freckles, np.full(len(person.freckles), 0.016), person.skin * 0.7)
    if person.wrinkle > 0:
        shade = person.skin * (1 - 0.3 * person.wrinkle)
        for height in (-0.72, -0.58):
            sketch.stroke(np.stack([0.42 * _ALONG, height - 0.05 * (1 - _ALONG**2)], axis=1), shade, 0.03)
        for side in (-1, 1):
            fold = np.array([[0.6, 0.62], [0.95, 0.72], [1.15, 1.0], [1.2, 1.15]]) * (person.nose_width + 0.16, 1)
            sketch.stroke(fold * (side, 1), shade, 0.035)
    if person.eye_bag > 0:
        for side in (-1, 1):
            bag = np.stack([_ALONG * person.eye_width, 0.1 + person.eye_height + 0.06 * (1 - _ALONG**2)], axis=1)
            sketch.stroke(bag + (side * person.eye_x, 0), person.skin * (1 - 0.25 * person.eye_bag), 0.05)
    if len(person.scar):
        start, end = person.scar
        sketch.stroke(start + (end - start) * np.linspace(0, 1, 5)[:, None], person.skin * (1.08, 0.88, 0.88), 0.05)
    sketch.spots(person.moles[:, :2], person.moles[:, 2], person.skin * 0.35)


def _draw_beard(sketch: _Sketch, person: Person) -> None:
    color = 0.35 * person.skin + 0.65 * _hair(sketch, person)
    if person.beard == "goatee":
        sketch.fill(_CIRCLE * (person.mouth_width * 0.75, 0.28) + (0, person.chin_y - 0.22), color)
        return
    outline = _face_outline(person)
    lower = outline[outline[:, 1] > 0.45]
    order = np.argsort(np.arctan2(lower[:, 0], lower[:, 1] - 0.4))
    lower = lower[order]
    inner = np.stack([person.face_width * 0.66 * _ALONG[::-1], person.mouth_y - 0.22 + 0.0 * _ALONG], axis=1)
    sketch.fill(np.concatenate([lower, inner]), color)


def _draw_features(sketch: _Sketch, person: Person) -> np.ndarray:
    nose = _draw_nose(sketch, person)
    corners = _draw_mouth(sketch, person)
    eyes = [_draw_eye(sketch, person, side) for side in (-1, 1)]
    for side in (-1, 1):
        _draw_brow(sketch, person, side)
    return np.array([*eyes, nose, *corners])


def _draw_eye(sketch: _Sketch, person: Person, side: int) -> np.ndarray:
    shot = sketch.shot
    height = person.eye_height * shot.open_eyes
    tilt = person.eye_tilt * 0.4 * side
    center = np.array([side * person.eye_x, 0.0])
    across = _ALONG * person.eye_width
    arc = 1 - np.abs(_ALONG) ** 2.2
    slope = across * tilt
    upper, lower = slope - height * arc, slope + height * 0.75 * arc
    top = np.stack([across, upper], axis=1) + center
    sketch.fill(np.concatenate([top, np.stack([across, lower], axis=1)[::-1] + center]), np.array([236, 232, 228]))
    for radius, color in ((person.iris, person.iris_color), (person.iris * 0.45, np.array([12, 10, 10]))):
        disc = _CIRCLE * radius + shot.gaze
        low = np.interp(disc[:, 0], across, upper)
        high = np.interp(disc[:, 0], across, lower)
        sketch.fill(np.stack([disc[:, 0], np.clip(disc[:, 1], low, high)], axis=1) + center, color)
    sketch.stroke(top, person.skin * 0.3, person.lid)
    projected: np.ndarray = sketch.project(center[None])[0]
    return projected


def _draw_brow(sketch: _Sketch, person: Person, side: int) -> None:
    base = -person.eye_height - person.brow_gap - sketch.shot.raised_brows
    across = _ALONG * person.brow_length
    # The tilt runs from the nose outwards, on both sides alike.
    y = base - person.brow_arch * (1 - _ALONG**2) + person.brow_tilt * 0.5 * across
    thickness = person.brow_thickness * (0.35 + 0.65 * (1 - _ALONG) / 2) / 2
    shape = _band(across + person.eye_x, y - thickness, y + thickness)
    sketch.fill(shape * (side, 1), 0.8 * np.minimum(_hair(sketch, person), person.skin * 0.75))


def _draw_nose(sketch: _Sketch, person: Person) -> np.ndarray:
    tip, width = person.nose_y, person.nose_width
    bridge = person.bridge
    ridge = np.array([[bridge, 0.0], [bridge * 1.2, tip * 0.6], [width * 0.62, tip - 0.06], [width, tip + 0.05]])
    dark_side = np.concatenate([ridge, [[width * 0.75, tip + 0.12], [0.0, tip + 0.14], [0.0, 0.0]]]) * (-1, 1)
    sketch.fill(dark_side, person.skin * 0.84, lift=0.06)
    highlight = np.concatenate([[[0.0, 0.0]], ridge * (0.55, 1), [[0.0, tip + 0.1]]])
    sketch.fill(_mirrored(highlight), person.skin * 1.08, lift=0.16)
    for sign in (-1, 1):
        nostril = _CIRCLE[::2] * (person.nostril * 1.5, person.nostril) + (sign * width * 0.5, tip + 0.08)
        sketch.fill(nostril, person.skin * 0.35, lift=0.1)
        wing = np.array([[width * 0.95, tip - 0.06], [width * 1.08, tip + 0.04], [width * 0.85, tip + 0.13]])
        sketch.stroke(wing * (sign, 1), person.skin * 0.6, 0.035, lift=0.06)
    projected: np.ndarray = sketch.project(np.array([[0.0, tip]]), lift=0.22)[0]
    return projected


def _draw_mouth(sketch: _Sketch, person: Person) -> np.ndarray:
    shot = sketch.shot
    half = person.mouth_width * (1 + shot.smile)
    across = _ALONG * half
    arc = 1 - _ALONG**2
    middle = person.mouth_y + 2 * shot.smile * arc - shot.smile
    opening = shot.open_mouth * arc
    bow = person.cupid * np.exp(-((_ALONG / 0.22) ** 2))
    top = middle - opening * 0.3 - person.upper_lip * np.sqrt(arc) + bow
    bottom = middle + opening * 0.7 + person.lower_lip * arc
    if person.beard in ("moustache", "full"):
        color = 0.25 * person.skin + 0.75 * _hair(sketch, person)
        strip = np.concatenate([np.stack([across * 1.1, top + 0.02], 1), np.stack([across * 0.9, top - 0.15], 1)[::-1]])
        sketch.fill(strip, color, lift=0.02)
    sketch.fill(_band(across, top, middle - opening * 0.3), person.lip_color * 0.88)
    sketch.fill(_band(across, middle + opening * 0.7, bottom), person.lip_color)
    if shot.open_mouth > 0.02:
        sketch.fill(_band(across * 0.92, middle - opening * 0.3, middle + opening * 0.7), np.array([60, 20, 22]))
        sketch.fill(_band(across * 0.8, middle - opening * 0.3, middle), np.array([225, 222, 215]))
    else:
        sketch.stroke(np.stack([across, middle], axis=1), person.lip_color * 0.45, 0.028)
    return sketch.project(np.stack([across, middle], axis=1)[[0, -1]])


def _draw_hair_front(sketch: _Sketch, person: Person) -> None:
    style, line, volume = person.hair_style, person.hairline, person.volume
    if style == "bald":
        return
    hair = _hair(sketch, person)
    width, top = person.face_width * 1.04, -1.28 - volume
    outer = _HAIR_CAP * (width, 1)
    outer[2:7, 1] -= volume * np.array([0.6, 0.95, 1, 0.95, 0.6])
    if style == "mohawk":
        crest = np.array([[-0.22, line], [-0.26, top - 0.1], [0, top - 0.3], [0.26, top - 0.1], [0.22, line]])
        sketch.fill(crest, hair)
        return
    inner_x = np.array([0.93, 0.86, 0.6, 0.25, 0.0, -0.25, -0.6, -0.86, -0.93]) * person.face_width
    inner_y = np.array([-0.15, line * 0.72, line, line, line, line, line, line * 0.72, -0.15])
    if style == "buzz":
        hair = 0.5 * hair + 0.5 * person.skin
        outer[:, 1] = np.maximum(outer[:, 1], -1.3)
    if style == "fringe":
        inner_y[2:7] = line * 0.35 - 0.22 + np.array([0.04, -0.05, 0.04, -0.05, 0.04])
    if style.startswith("parted"):
        sweep = np.linspace(-0.22, 0.3, 7) * (1 if style == "parted_left" else -1)
        inner_y[1:8] = inner_y[1:8] + sweep
    sketch.fill(np.concatenate([outer, np.stack([inner_x, inner_y], axis=1)]), hair, lift=0.05)


def _occlude(sketch: _Sketch, person: Person, rng: np.random.Generator) -> None:
    """Put glasses, a hand or a bar before some faces; they say nothing about who it is."""
    choice, color = rng.uniform(), rng.uniform(0, 255, 3)
    size = sketch.image.shape[0]
    if choice < 0.09:
        radius = rng.uniform(0.24, 0.34, 2)
        for side in (-1, 1):
            ring = np.concatenate([_CIRCLE, _CIRCLE[:2]]) * radius + (side * 0.46, 0.02)
            sketch.stroke(ring, color * 0.5, rng.uniform(0.04, 0.07), lift=0.14)
        sketch.stroke(np.array([[-0.2, 0.0], [0.0, -0.03], [0.2, 0.0]]), color * 0.5, 0.05, lift=0.2)
    elif choice < 0.14:
        corner = rng.uniform(0.05, 0.95) * size, size * rng.uniform(0.85, 1.05)
        fingers = _CIRCLE * rng.uniform(0.12, 0.24, 2) * size + corner
        sketch.fill_pixels(fingers, person.skin * rng.uniform(0.8, 1.0))
    elif choice < 0.19:
        start, angle = rng.uniform(0, size, 2), rng.uniform(0, np.pi)
        along = np.array([np.cos(angle), np.sin(angle)]) * 2 * size
        across = np.array([-np.sin(angle), np.cos(angle)]) * size * rng.uniform(0.02, 0.05)
        bar = [along + across, along - across, -along - across, -along + across]
        sketch.fill_pixels(start + np.array(bar), color)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    cells = int(rng.integers(2, 7))
    coarse = np.clip(rng.uniform(0, 255, 3) + rng.normal(0, 45, (cells, cells, 3)), 0, 255).astype(np.uint8)
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 4)):
        polygon = rng.uniform(-0.2, 1.2, 2) * size + rng.normal(0, 0.25, (4, 2)) * size
        cv2.fillPoly(image, [np.round(polygon).astype(np.int32)], rng.uniform(0, 255, 3).tolist(), cv2.LINE_AA)
    return image


def _develop(image: np.ndarray, shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """Light the scene, then pass it through a lens and a sensor."""
    size = image.shape[0]
    color = np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.14, 3)).astype(np.float32)
    lit = np.minimum(image * (_shade(size, shot, rng)[..., None] * color), np.float32(255)).astype(np.uint8)
    blur = rng.uniform(0, 0.9) * size / 112
    if blur > 0.35:
        lit = cv2.GaussianBlur(lit, (0, 0), blur)
    gamma, contrast, haze = np.exp(rng.normal(0, 0.14)), rng.uniform(0.75, 1.05), rng.uniform(0, 25)
    table = 255 * np.power(np.arange(256) / 255, gamma) * contrast + haze
    noise = rng.integers(-128, 128, lit.shape, dtype=np.int8) * np.float32(rng.uniform(0, 12) / 128)
    exposed: np.ndarray = np.clip(table.astype(np.float32)[lit] + noise, 0, 255).astype(np.uint8)
    return exposed


def _shade(size: int, shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """Return the light [size, size] that falls on an ellipsoid in the head's place, some of it cut off by a shadow."""
    pixels = np.arange(size, dtype=np.float32)
    across = ((pixels - shot.center[0]) / (1.25 * shot.scale)).astype(np.float32)[None, :]
    down = ((pixels - shot.center[1] - 0.2 * shot.scale) / (1.7 * shot.scale)).astype(np.float32)[:, None]
    forward = np.sqrt(np.maximum(np.float32(0.05), 1 - across**2 - down**2))
    light = np.append(rng.normal(0, (0.75, 0.5)), 1.0).astype(np.float32)
    light /= np.linalg.norm(light)
    ambient = np.float32(rng.uniform(0.3, 0.8))
    shade = ambient + (1 - ambient) * 1.25 * np.maximum(0, across * light[0] + down * light[1] + forward * light[2])
    if rng.uniform() < 0.3:
        angle, width = rng.uniform(0, 2 * np.pi), rng.uniform(3, 12) * size / 112
        normal = (np.array([np.cos(angle), np.sin(angle)]) / width).astype(np.float32)
        edge = (pixels - rng.uniform(0.2, 0.8) * size)[None, :] * normal[0] + (pixels - 0.5 * size)[:, None] * normal[1]
        shade *= 1 - np.float32(rng.uniform(0.2, 0.55)) / (1 + np.exp(np.clip(edge.astype(np.float32), -30, 30)))
    single: np.ndarray = shade.astype(np.float32)
    return single


def _face_outline(person: Person) -> np.ndarray:
    width = person.face_width
    half = np.array(
        [
            [0.0, -1.22],
            [0.45 * width, -1.16],
            [0.8 * width, -0.92],
            [0.98 * width, -0.45],
            [width, 0.0],
            [width * (1 + person.cheek) / 2, 0.35],
            [width * person.cheek * (0.55 + 0.45 * person.jaw), 0.78],
            [width * person.jaw * 0.92, 1.1],
            [(width * person.jaw + person.chin_width) / 2, person.chin_y - 0.18],
            [person.chin_width, person.chin_y - 0.03],
            [0.0, person.chin_y],
        ]
    )
    return _mirrored(half)


def _mirrored(half: np.ndarray) -> np.ndarray:
    """Close a right half, given from top to bottom, by its mirror image."""
    return np.concatenate([half, half[::-1] * (-1, 1)])


def _band(across: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.concatenate([np.stack([across, top], axis=1), np.stack([across, bottom], axis=1)[::-1]])


def _hair(sketch: _Sketch, person: Person) -> np.ndarray:
    color: np.ndarray = np.clip(person.hair_color + sketch.shot.hair_tint, 3, 250)
    return color


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    turned: np.ndarray = lean @ nod @ turn
    return turned
