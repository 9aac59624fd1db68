"""Notice pictures whose channels are in the wrong order: by the color of skin, and by what the model makes of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from recognition.images.codec import decode_rgb
from recognition.verification.metrics import pair_distances, roc_auc
from recognition.verification.protocols import PairSet, decode_images, distinct_images

SAMPLE = 64
"""Pictures whose color is looked at."""
SAMPLE_PAIRS = 200
"""Pairs of either kind at most that the model embeds in both orders."""
_LEAST_COLOR = 2.0
_MOST_BLUE = 0.7
"""Of 2,992 aligned faces of LFW, one is more blue than red in the middle."""


def blue_warning(pair_set: PairSet) -> str | None:
    """Return a warning when most of a sample of pictures are more blue than red in the middle, as no faces are.

    Gray pictures say nothing. Decodes at most SAMPLE pictures.
    """
    firsts, _ = distinct_images(pair_set.images)
    chosen = firsts[:: max(1, len(firsts) // SAMPLE)][:SAMPLE]
    differences = np.array(
        [_red_minus_blue(pair_set.images[number], f"{pair_set.path}: image {number}") for number in chosen]
    )
    colored = differences[np.abs(differences) > _LEAST_COLOR]
    if len(colored) < 8 or np.mean(colored < 0) <= _MOST_BLUE:
        return None
    return (
        f"{pair_set.name}: {np.count_nonzero(colored < 0)} of {len(colored)} colored pictures are more blue than red "
        "in the middle, which skin is not: they seem to hold BGR; store them as RGB, or compare with --check-color"
    )


def _red_minus_blue(encoded: bytes, place: str) -> float:
    rgb = decode_rgb(encoded, place=place)
    height, width = rgb.shape[:2]
    middle = rgb[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]
    return float(middle[..., 0].mean() - middle[..., 2].mean())


def both_orders(
    embed: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]], pair_set: PairSet, *, image_size: int
) -> tuple[float, float]:
    """Return the AUC of a sample of the pairs as they are, and with red and blue exchanged.

    A model that was trained on BGR, or pictures that hold it, show in the second being higher. Embeds up to 1,600
    pictures.
    """
    same, different = np.flatnonzero(pair_set.is_same), np.flatnonzero(~pair_set.is_same)
    chosen = np.sort(np.concatenate([same[:SAMPLE_PAIRS], different[:SAMPLE_PAIRS]]))
    images = [pair_set.images[image] for pair in chosen.tolist() for image in (2 * pair, 2 * pair + 1)]
    pixels = decode_images(images, image_size=image_size, place=str(pair_set.path))
    as_fed, swapped = (
        roc_auc(-pair_distances(embed(each)), pair_set.is_same[chosen])
        for each in (pixels, np.ascontiguousarray(pixels[..., ::-1]))
    )
    return as_fed, swapped


def order_line(name: str, as_fed: float, swapped: float) -> str:
    """Return what the two AUCs say."""
    verdict = "the order is right" if as_fed >= swapped else "BGR seems to be fed where RGB is expected, or the reverse"
    return f"{name}: AUC {as_fed:.4f} as fed, {swapped:.4f} with red and blue exchanged: {verdict}"
