"""The operations against cv2 and NumPy, which do them one image at a time."""

import colorsys
import itertools

import cv2
import numpy as np
import pytest
import torch

from recognition.images.augment_color import Color, jitter_color
from recognition.images.augment_crop import keep_window
from recognition.images.augment_gray import gray
from recognition.images.augment_jpeg import jpeg_artifacts
from recognition.images.augment_low_resolution import LowResolution, lower_resolution
from recognition.images.augment_mask import wear_mask
from recognition.images.augment_misalign import misalign
from recognition.images.augment_occlusion import occlude
from recognition.images.augment_shift import shift
from recognition.images.planes import blur

SIZE = 48


def planes(n=4, *, size=SIZE, smooth=True):
    rng = np.random.default_rng(0)
    coarse = 8 if smooth else size
    images = rng.integers(0, 256, (n, coarse, coarse, 3), dtype=np.uint8)
    images = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in images])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def as_rgb(image):
    return image.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def test_blur_is_cv2s():
    images = planes()
    sigmas = torch.tensor([0.5, 0.8, 1.1, 1.5])
    blurred = blur(images, sigmas)
    for image, sigma, found in zip(images, sigmas.tolist(), blurred, strict=True):
        expected = cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (9, 9), sigma, borderType=cv2.BORDER_REPLICATE)
        assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() < 0.01


def test_shift_moves_whole_pixels_and_fills_with_black():
    images = planes()
    moved = shift(images, torch.tensor([3.0, -2.0, 0.0, 0.4]), torch.tensor([0.0, 5.0, -4.0, 0.0]))
    assert torch.equal(moved[0, :, :, 3:], images[0, :, :, :-3])
    assert not moved[0, :, :, :3].any()
    assert torch.equal(moved[1, :, 5:, :-2], images[1, :, :-5, 2:])
    assert not moved[1, :, :5].any()
    assert torch.equal(moved[2, :, :-4], images[2, :, 4:])
    assert torch.equal(moved[3], images[3])


@pytest.mark.parametrize(
    ("degrees", "zoom", "right", "down"), [(0, 1, 3, -2), (9, 1, 0, 0), (0, 1.1, 0, 0), (-7, 0.9, 4, 5)]
)
def test_misalign_is_cv2s_similarity_about_the_middle(degrees, zoom, right, down):
    images = planes()
    parameters = (torch.full((len(images),), float(value)) for value in (degrees, zoom, right, down))
    moved = misalign(images, *parameters)
    middle = (SIZE - 1) / 2
    # cv2 counts degrees against the clock.
    matrix = cv2.getRotationMatrix2D((middle, middle), -degrees, zoom) + np.array([[0, 0, right], [0, 0, down]])
    for image, found in zip(images, moved, strict=True):
        expected = cv2.warpAffine(image.permute(1, 2, 0).numpy(), matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
        inner = slice(8, -8)  # the edges differ: cv2 fades into its border
        difference = np.abs(found.permute(1, 2, 0).numpy() - expected)[inner, inner]
        assert difference.max() < 3


def test_windows_cover_the_share_of_the_side_they_are_given():
    images = torch.full((2, 3, SIZE, SIZE), 100.0)
    quarter, half = torch.tensor([0.25, 0.0]), torch.tensor([0.5, 0.25])
    kept = keep_window(images, quarter, quarter, half, half)
    assert (kept[0, :, 12:36, 12:36] == 100).all()
    assert kept[0].sum() == 3 * 24 * 24 * 100
    covered = occlude(images, quarter, quarter, half, half, torch.tensor([0.0, 1.0]))
    assert covered[0].sum() == 3 * (SIZE**2 - 24 * 24) * 100
    assert (covered[1, :, :12, :12] == 255).all()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_low_resolution_is_near_cv2s_resize_down_and_up(ratio):
    images = planes()
    found = lower_resolution(images, torch.full((4,), ratio))
    small = int(SIZE * ratio)
    for image, lowered in zip(images, found, strict=True):
        rgb = image.permute(1, 2, 0).numpy()
        expected = cv2.resize(cv2.resize(rgb, (small, small), interpolation=cv2.INTER_AREA), (SIZE, SIZE))
        error = np.abs(lowered.permute(1, 2, 0).numpy() - expected)
        lost = np.abs(rgb - expected).mean()
        assert error.mean() < 0.05 + 0.35 * lost


@pytest.mark.parametrize("ratio", [(0.5, 0.8), (0.2, 1.0), (1.0, 1.0)])
def test_low_resolution_leaves_out_no_weight_that_counts(ratio):
    images = planes(smooth=False)
    ratios = torch.linspace(*ratio, len(images))
    assert torch.equal(LowResolution(ratio=ratio).apply(images, ratios), lower_resolution(images, ratios, radius=8))


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95])
def test_jpeg_is_near_libjpegs(quality):
    images = planes()
    found = jpeg_artifacts(images, torch.full((4,), float(quality)))
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    for image, damaged in zip(images, found, strict=True):
        encoded = cv2.imencode(".jpg", as_rgb(image)[..., ::-1], flags)[1]
        expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB).astype(float)
        ours = damaged.permute(1, 2, 0).numpy()
        lost = np.abs(as_rgb(image) - expected).mean()
        # libjpeg interpolates the chroma; what is lost is the same up to that.
        assert np.abs(ours - expected).mean() < 0.5 * lost + 0.5
        assert 0.6 < np.abs(ours - as_rgb(image)).mean() / lost < 1.6


@pytest.mark.parametrize("size", [47, 112])
def test_jpeg_takes_sides_that_are_no_multiple_of_sixteen(size):
    images = planes(1, size=size)
    found = jpeg_artifacts(images, torch.tensor([100.0]))
    assert found.shape == images.shape
    assert (found - images).abs().mean() < 4


def test_gray_is_the_luma():
    images = planes()
    expected = cv2.cvtColor(as_rgb(images[0]), cv2.COLOR_RGB2GRAY)
    found = as_rgb(gray(images)[0])
    assert np.abs(found - expected[..., None].astype(int)).max() <= 1


def ones(value=1.0):
    return torch.full((4,), value)


def test_color_jitter_leaves_alone_what_it_is_not_asked_to_change():
    images = planes()
    same = jitter_color(images, ones(), ones(), ones(), ones(0.0))
    assert (same - images).abs().max() < 0.6  # the YIQ matrices are rounded to four digits
    dark_and_gray = jitter_color(images, ones(0.5), ones(), ones(0.0), ones(0.0))
    assert (dark_and_gray - gray(images * 0.5)).abs().max() < 0.1


def test_factors_of_one_may_be_left_out():
    images = planes(smooth=False)
    saturation, hue = torch.linspace(0.5, 1.5, len(images)), torch.linspace(0, 20, len(images))
    whole = jitter_color(images, ones(), ones(), saturation, hue)
    assert (jitter_color(images, None, None, saturation, hue) - whole).abs().max() < 1e-3  # of 255, in float32
    apart = Color(brightness=(1.0, 1.0), contrast=(1.0, 1.0)).apply(images, ones(0.5), ones(0.5), saturation, hue)
    assert torch.equal(apart, jitter_color(images, None, None, saturation, hue))
    assert (Color().apply(images, ones(0.5), ones(0.5), saturation, hue) - apart).abs().mean() > 10


def test_hue_and_saturation_are_those_of_yiq():
    """In float64, by the two matrices and the turn between them, a pixel at a time."""
    images = planes(smooth=False)
    saturation, hue = torch.linspace(0.5, 1.5, len(images)), torch.linspace(-30, 20, len(images))
    forth = np.array([(0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    back = np.array([(1.0, 0.956, 0.619), (1.0, -0.272, -0.647), (1.0, -1.106, 1.703)])
    found = jitter_color(images, None, None, saturation, hue)
    for image, gain, degrees, changed in zip(images, saturation.tolist(), hue.tolist(), found, strict=True):
        angle = np.radians(degrees)
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        matrix = back @ np.diag([1, gain, gain]) @ turn @ forth
        expected = np.einsum("ij,jyx->iyx", matrix, image.double().numpy()).clip(0, 255)
        assert np.abs(changed.numpy() - expected).max() < 1e-3


def test_contrast_moves_pixels_away_from_the_mean():
    images = planes() * 0.2 + 100
    found = jitter_color(images, ones(), ones(1.5), ones(), ones(0.0))
    mean = gray(images)[:, :1].mean((2, 3), keepdim=True)
    assert (found - (mean + 1.5 * (images - mean))).abs().max() < 0.6


def test_hue_turns_towards_yellow_and_keeps_the_luma():
    red = torch.tensor([200.0, 60.0, 60.0])[None, :, None, None].expand(4, 3, SIZE, SIZE)
    turned = jitter_color(red, ones(), ones(), ones(), ones(20.0))
    assert (gray(turned) - gray(red)).abs().max() < 1
    hues = [colorsys.rgb_to_hsv(*(image[:, 0, 0] / 255).tolist())[0] * 360 for image in (red[0], turned[0])]
    assert hues[0] == 0
    assert 5 < min(abs(hues[1]), 360 - abs(hues[1])) < 45


def test_mask_covers_mouth_and_nose_and_leaves_the_eyes():
    images = torch.zeros(1, 3, 112, 112)
    masked = wear_mask(images, torch.tensor([0.55]), *(torch.tensor([0.8]),) * 3)
    for x, y in ((38, 51), (73, 51)):  # the eyes of the ArcFace template
        assert not masked[0, :, y, x].any()
    for x, y in ((56, 72), (42, 92), (71, 92)):  # nose and corners of the mouth
        assert (masked[0, :, y, x] > 60).all()
    assert not masked[0, :, 60, 0].any()


OPERATIONS = {
    "misalign": (misalign, 4, 1.5),
    "shift": (shift, 2, 4.0),
    "keep_window": (keep_window, 4, 0.5),
    "occlude": (occlude, 5, 0.5),
    "wear_mask": (wear_mask, 4, 0.5),
    "lower_resolution": (lower_resolution, 1, 1.0),
    "blur": (blur, 1, 1.0),
    "gray": (gray, 0, 1.0),
    "jitter_color": (jitter_color, 4, 2.0),
    "jpeg_artifacts": (jpeg_artifacts, 1, 100.0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_image_comes_out_the_same_in_any_batch(name):
    operation, num_parameters, scale = OPERATIONS[name]
    images = planes(37, smooth=False)
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.rand(37, generator=generator) * scale + 0.01 for _ in range(num_parameters)]
    whole = operation(images, *parameters)
    assert whole.shape == images.shape
    assert torch.isfinite(whole).all()
    assert whole.min() >= -1e-3
    assert whole.max() <= 255.001
    cuts = [0, 1, 3, 20, 37]
    for start, stop in itertools.pairwise(cuts):
        part = operation(images[start:stop], *(parameter[start:stop] for parameter in parameters))
        assert torch.equal(part, whole[start:stop])
