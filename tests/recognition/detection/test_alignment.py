import numpy as np
import pytest

from recognition.detection.alignment import ARCFACE_TEMPLATE, align, similarity, template
from recognition.errors import DataError


def moved(points: np.ndarray, angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + shift


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize("angle", [0.0, 0.3, -1.5, 3.0])
@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_an_exact_similarity_is_recovered(angle, scale):
    source = moved(ARCFACE_TEMPLATE, angle, scale, (13.0, -40.0))
    np.testing.assert_allclose(apply(similarity(source, ARCFACE_TEMPLATE), source), ARCFACE_TEMPLATE, atol=1e-9)


def test_the_fit_equals_linear_least_squares():
    """With a = s cos, b = s sin, the same optimum comes from a linear system in (a, b, tx, ty)."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        source = rng.normal(60, 20, (5, 2))
        rows, wanted = [], []
        for (x, y), (u, v) in zip(source, ARCFACE_TEMPLATE):
            rows += [[x, -y, 1, 0], [y, x, 0, 1]]
            wanted += [u, v]
        a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
        np.testing.assert_allclose(similarity(source, ARCFACE_TEMPLATE), [[a, -b, tx], [b, a, ty]], atol=1e-7)


def test_mirrored_landmarks_are_never_fitted_by_a_mirror():
    matrix = similarity(ARCFACE_TEMPLATE * (-1, 1), ARCFACE_TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_an_aligned_picture_has_its_landmarks_on_the_template():
    landmarks = moved(ARCFACE_TEMPLATE, 0.4, 1.7, (60.0, 30.0))
    image = np.zeros((320, 320, 3), np.uint8)
    for channel, (x, y) in enumerate(landmarks[:3]):
        yy, xx = np.mgrid[0:320, 0:320]
        image[..., channel] = 255 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 18)
    aligned = align(image, landmarks)
    assert aligned.shape == (112, 112, 3)
    assert aligned.dtype == np.uint8
    for channel in range(3):
        weight = aligned[..., channel].astype(float)
        yy, xx = np.mgrid[0:112, 0:112]
        center = (xx * weight).sum() / weight.sum(), (yy * weight).sum() / weight.sum()
        np.testing.assert_allclose(center, ARCFACE_TEMPLATE[channel], atol=0.1)


def test_what_lies_outside_the_picture_is_black():
    aligned = align(np.full((112, 112, 3), 255, np.uint8), ARCFACE_TEMPLATE + 40)
    assert aligned[-30:, -30:].max() == 0
    assert aligned[:60, :60].min() == 255


def test_the_template_scales_with_the_picture():
    np.testing.assert_allclose(template(112), ARCFACE_TEMPLATE)
    np.testing.assert_allclose(template(224), 2 * ARCFACE_TEMPLATE)
    np.testing.assert_allclose(template(128), ARCFACE_TEMPLATE + (8, 0))
    np.testing.assert_allclose(template(256), 2 * ARCFACE_TEMPLATE + (16, 0))


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.full((5, 2), 3.0), "coincide in one point"),
        (np.full((5, 2), np.nan), "not finite"),
        (np.zeros((4, 2)), r"shape \(4, 2\); expected \(5, 2\)"),
    ],
)
def test_impossible_landmarks_are_refused(landmarks, message):
    with pytest.raises(DataError, match=message):
        align(np.zeros((10, 10, 3), np.uint8), landmarks)
