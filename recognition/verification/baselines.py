"""Score pairs without a network: what a task asks beyond this is what a model has to learn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import torch

from recognition.backbones.fresh import set_batch_norms
from recognition.embedding.embedder import Embedder
from recognition.formats.pairs_bin import Pairs
from recognition.images.codec import decode_rgb
from recognition.images.preprocess import to_network
from recognition.verification.judged_models import ReadyModel
from recognition.verification.metrics import pair_distances
from recognition.verification.protocols import PairSet, VerificationResult, decode_images, verify_scores

logger = logging.getLogger(__name__)

PIXEL_SIDE = 112
HISTOGRAM_BINS = 8
CALIBRATION_IMAGES = 128


def baseline_results(model: ReadyModel, pair_set: PairSet, *, folds: int | None) -> Iterator[VerificationResult]:
    """Yield what raw pixels, a color histogram and the model's network untrained reach on a set.

    An .onnx file cannot be built anew: it has no untrained network.
    """
    pairs = Pairs(pair_set.images, pair_set.is_same)
    scores = {"raw pixels": raw_pixel_scores(pairs), "color histogram": color_histogram_scores(pairs)}
    if model.architecture is not None:
        sample = pair_set.images[:CALIBRATION_IMAGES]
        pixels = decode_images(sample, image_size=model.image_size, place=str(pair_set.path))
        embeddings = _untrained(model, pixels).embed_set(pair_set, label=f"{pair_set.name} untrained")
        scores["untrained network"] = 1.0 - pair_distances(embeddings) / 2.0
    else:
        logger.warning("%s: nothing says its network; the baseline of an untrained one is left out", model.path)
    for method, values in scores.items():
        yield verify_scores(pair_set, values, method=method, folds=folds)


def raw_pixel_scores(pairs: Pairs) -> np.ndarray:
    """Return the cosine of each pair's pixels, each picture's mean removed: float64 [n].

    Without the mean two bright pictures would resemble each other more than two of one person.
    """
    return _cosines(pairs, _pixels)


def color_histogram_scores(pairs: Pairs) -> np.ndarray:
    """Return the cosine of each pair's 8 x 8 x 8 RGB histograms: float64 [n]."""
    return _cosines(pairs, _histogram)


def _cosines(pairs: Pairs, describe: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    scores = np.empty(len(pairs))
    for index in range(len(pairs)):
        first, second = (
            describe(decode_rgb(pairs.images[image], place=f"image {image} of the pairs"))
            for image in (2 * index, 2 * index + 1)
        )
        # A picture of one color has no direction; it resembles nothing.
        length = np.linalg.norm(first) * np.linalg.norm(second)
        scores[index] = float(first @ second) / length if length > 0 else 0.0
    return scores


def _pixels(rgb: np.ndarray) -> np.ndarray:
    if rgb.shape[:2] != (PIXEL_SIDE, PIXEL_SIDE):
        rgb = cv2.resize(rgb, (PIXEL_SIDE, PIXEL_SIDE), interpolation=cv2.INTER_AREA)
    pixels = rgb.reshape(-1).astype(np.float64)
    centered: np.ndarray = pixels - pixels.mean()
    return centered


def _histogram(rgb: np.ndarray) -> np.ndarray:
    counts = cv2.calcHist([rgb], [0, 1, 2], None, [HISTOGRAM_BINS] * 3, [0, 256] * 3)
    return counts.reshape(-1).astype(np.float64)


def _untrained(model: ReadyModel, pixels: npt.NDArray[np.uint8]) -> ReadyModel:
    """Build the same architecture with fresh weights of seed 0 and the BatchNorm statistics of `pixels`."""
    assert model.architecture is not None, "only a network of ours can be built anew"
    device, old = model.world.device, model.embedder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = model.architecture.build()
    module = module.to(device)
    set_batch_norms(module, to_network(torch.from_numpy(pixels).to(device)))
    embedder = Embedder(
        module.eval(), device=device, batch_size=model.batch_size, precision=old.precision if old else "off"
    )
    return replace(model, embedder=embedder, embed=embedder.embed)
