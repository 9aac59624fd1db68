"""Scale, channel order, memory layout and flips of what a backbone sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recognition.images.preprocess import to_network


def slow(images: np.ndarray, flip: list[bool]) -> np.ndarray:
    out = np.zeros((images.shape[0], 3, *images.shape[1:3]), np.float64)
    for index, image in enumerate(images):
        for column in range(image.shape[1]):
            source = image.shape[1] - 1 - column if flip[index] else column
            out[index, :, :, column] = image[:, source, :].T / 127.5 - 1.0
    return out


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_scaled_transposed_and_flipped_as_marked(memory_format: torch.memory_format) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    flip = [False, True, False]
    given = torch.from_numpy(images)
    out = to_network(given, torch.tensor(flip), memory_format=memory_format)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=memory_format)
    np.testing.assert_allclose(out.numpy(), slow(images, flip), rtol=0, atol=1e-6)
    assert np.array_equal(given.numpy(), images)  # the input is left as it was


def test_range_is_exactly_minus_one_to_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 4, 4, 3)
    out = to_network(images)
    assert (out[0] == -1).all()
    assert (out[1] == 1).all()


def test_flip_twice_is_the_image_itself() -> None:
    images = torch.randint(0, 256, (2, 6, 6, 3), dtype=torch.uint8)
    mirrored = to_network(images, torch.ones(2, dtype=torch.bool))
    assert torch.equal(mirrored.flip(3), to_network(images))


def test_another_type_or_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images are torch.float32 \[1, 2, 2, 3\]; expected torch.uint8"):
        to_network(torch.zeros(1, 2, 2, 3))
    with pytest.raises(ValueError, match=r"images are torch.uint8 \[1, 3, 2, 2\]; expected torch.uint8 \[B, H, W, 3\]"):
        to_network(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"flip is torch.bool \[3\]; expected torch.bool \[1\]"):
        to_network(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.ones(3, dtype=torch.bool))
