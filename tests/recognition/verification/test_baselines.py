import cv2
import numpy as np
import pytest

from recognition.errors import DataError
from recognition.formats.pairs_bin import Pairs
from recognition.verification.baselines import color_histogram_scores, raw_pixel_scores


def pairs_of(*pictures: np.ndarray) -> Pairs:
    encoded = [cv2.imencode(".png", picture[..., ::-1])[1].tobytes() for picture in pictures]
    return Pairs(encoded, np.ones(len(encoded) // 2, bool))


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), dtype=np.uint8)


def test_pixel_scores_are_the_correlation_of_the_pixels(pictures):
    blend = (0.5 * pictures[0] + 0.5 * pictures[1]).astype(np.uint8)
    found = raw_pixel_scores(pairs_of(pictures[0], blend, pictures[2], pictures[3]))
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in ((pictures[0], blend), (pictures[2], pictures[3]))]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_histogram_scores_count_colors_and_not_places(pictures):
    shuffled = np.random.default_rng(1).permutation(pictures[0].reshape(-1, 3)).reshape(112, 112, 3)
    half = pictures[1] // 2
    found = color_histogram_scores(pairs_of(pictures[0], shuffled, pictures[0], half))
    counts = [np.zeros((8, 8, 8)), np.zeros((8, 8, 8))]
    for table, picture in zip(counts, (pictures[0], half)):
        for red, green, blue in picture.reshape(-1, 3):
            table[red // 32, green // 32, blue // 32] += 1
    slow = (counts[0] * counts[1]).sum() / np.sqrt((counts[0] ** 2).sum() * (counts[1] ** 2).sum())
    np.testing.assert_allclose(found, [1.0, slow], atol=1e-12)


def test_pictures_of_another_size_and_of_one_color_score(pictures):
    flat = np.full((50, 50, 3), 7, np.uint8)
    assert raw_pixel_scores(pairs_of(flat, pictures[0])).tolist() == [0.0]
    assert raw_pixel_scores(pairs_of(pictures[0][:64, :64], pictures[0][:64, :64])) == pytest.approx([1.0])


def test_a_broken_picture_is_named_by_its_number(pictures):
    pairs = pairs_of(pictures[0], pictures[1])
    pairs.images[1] = b"text"
    with pytest.raises(DataError, match="image 1 of the pairs: not an image"):
        raw_pixel_scores(pairs)
