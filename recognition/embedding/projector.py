"""Pictures of the embedding space: PCA and t-SNE of named people, and the files of TensorBoard's projector."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from recognition.errors import ConfigError, DataError
from recognition.images.sheets import fit_tile

MAX_POINTS = 10_000
"""Most points that t-SNE and the projector draw in a time that a person waits."""
SPRITE_TILE_PX = 48
MAX_SPRITE_PX = 8192
"""The projector takes no larger picture."""


def require_scikit_learn() -> None:
    """Raise ConfigError when the extra `eval` is not there."""
    try:
        for module in ("matplotlib.figure", "sklearn.manifold"):
            importlib.import_module(module)
    except ImportError as err:
        raise ConfigError(
            f"scikit-learn and matplotlib: cannot be imported ({err}); expected the extra `eval`; run: pip install "
            "'arcshard[eval]'"
        ) from err


def two_axes(units: np.ndarray, method: str, *, seed: int = 0) -> np.ndarray:
    """Return points [n, 2] for unit embeddings [n, D]: "pca" (the two widest directions) or "tsne" (neighborhoods).

    t-SNE (van der Maaten and Hinton, JMLR 9, 2008) keeps who is near whom; distances between groups mean nothing.
    Raises DataError for fewer than three points.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(units) < 3:
        raise DataError(f"{len(units)} embeddings; expected at least 3 to draw; choose more people")
    if method == "pca":
        found: np.ndarray = PCA(2, random_state=seed).fit_transform(units)
        return found
    perplexity = min(30.0, (len(units) - 1) / 3)
    narrow = PCA(min(50, *units.shape), random_state=seed).fit_transform(units)
    drawn: np.ndarray = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(narrow)
    return drawn


def draw_points(points: np.ndarray, people: Sequence[str], title: str) -> bytes:
    """Return a PNG of points [n, 2], a color and a marker a person; names are drawn as they are, not as formulas."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.add_subplot()
    owner = np.asarray(people, dtype=object)
    names = sorted(set(people))
    for number, name in enumerate(names):
        chosen = points[owner == name]
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=22, color=f"C{number % 10}", marker="osD^v<>PX*"[number // 10 % 10], alpha=0.8
        )
    axes.set_title(title, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    if len(names) <= 40:
        legend = axes.legend(names, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
        for text, name in zip(legend.get_texts(), names):
            text.set_parse_math(False)
            text.set_text(name.encode("utf-8", "backslashreplace").decode())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def write_projector(folder: Path, units: np.ndarray, people: Sequence[str], pictures: Sequence[np.ndarray]) -> None:
    """Write the files that TensorBoard's projector opens from `folder`: tensors, names, and thumbnails.

    `pictures` are uint8 [H, W, 3] RGB, or none at all. Names with tabs or line breaks are spelled out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = ("\t".join(f"{value:.6g}" for value in row) for row in units.tolist())
    (folder / "tensors.tsv").write_text("".join(f"{row}\n" for row in rows), encoding="ascii")
    names = (name.encode("unicode_escape").decode() if not name.isprintable() else name for name in people)
    (folder / "metadata.tsv").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    lines = ["embeddings {", '  tensor_name: "embeddings"', '  tensor_path: "tensors.tsv"']
    lines.append('  metadata_path: "metadata.tsv"')
    if pictures:
        sprite, side = join_sprite(pictures)
        (folder / "sprite.png").write_bytes(sprite)
        lines.append(f'  sprite {{ image_path: "sprite.png" single_image_dim: {side} single_image_dim: {side} }}')
    (folder / "projector_config.pbtxt").write_text("\n".join([*lines, "}"]) + "\n", encoding="ascii")


def join_sprite(pictures: Sequence[np.ndarray]) -> tuple[bytes, int]:
    """Return a PNG of pictures in rows, as many in a row as there are rows, and the side of one in pixels."""
    columns = math.ceil(math.sqrt(len(pictures)))
    side = min(SPRITE_TILE_PX, MAX_SPRITE_PX // columns)
    sheet = np.zeros((columns * side, columns * side, 3), np.uint8)
    for number, rgb in enumerate(pictures):
        top, left = (side * index for index in divmod(number, columns))
        small = cv2.resize(fit_tile(rgb), (side, side), interpolation=cv2.INTER_AREA)
        sheet[top : top + side, left : left + side] = small
    done, buffer = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert done, "cv2 could not encode a uint8 RGB array"
    return buffer.tobytes(), side
