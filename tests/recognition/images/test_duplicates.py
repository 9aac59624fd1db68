import cv2
import numpy as np

from recognition.images.codec import decode_rgb, encode_jpeg
from recognition.images.duplicates import MAX_BITS, image_hash, near_duplicates


def picture(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)


def bits(one, other):
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))


def test_a_picture_encoded_or_scaled_again_keeps_its_hash():
    for seed in range(30):
        original = picture(seed)
        again = decode_rgb(encode_jpeg(original, 80), place="")
        scaled = cv2.resize(cv2.resize(original, (96, 96), interpolation=cv2.INTER_AREA), (112, 112))
        assert bits(image_hash(original), image_hash(again)) <= MAX_BITS
        assert bits(image_hash(original), image_hash(scaled)) <= 2 * MAX_BITS


def test_other_pictures_are_far_away():
    hashes = [image_hash(picture(seed)) for seed in range(60)]
    assert min(bits(one, other) for i, one in enumerate(hashes) for other in hashes[:i]) > 20


def test_pairs_are_those_of_a_look_at_every_pair():
    rng = np.random.default_rng(0)
    words = [int.from_bytes(rng.bytes(16), "little") for _ in range(60)]
    for _ in range(40):  # copies with up to six bits turned
        word = words[int(rng.integers(60))]
        for bit in rng.choice(128, int(rng.integers(0, 7)), replace=False).tolist():
            word ^= 1 << bit
        words.append(word)
    expected = [
        [i, j]
        for i in range(len(words))
        for j in range(i + 1, len(words))
        if (words[i] ^ words[j]).bit_count() <= MAX_BITS
    ]
    hashes = np.array([[word & 2**64 - 1, word >> 64] for word in words], dtype=np.uint64)
    assert near_duplicates(hashes).tolist() == expected
    assert len(expected) > 10


def test_crowds_of_equal_hashes_end_in_time():
    pairs = near_duplicates(np.zeros((5000, 2), dtype=np.uint64))
    assert 5000 < len(pairs) < 5000 * 17
    assert near_duplicates(np.zeros((1, 2), dtype=np.uint64)).shape == (0, 2)
    assert near_duplicates(np.zeros((0, 2), dtype=np.uint64)).shape == (0, 2)
