"""From a .bin and an embedding function to a result, and how it is spelled."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import cv2
import numpy as np
import pytest

from recognition.errors import DataError
from recognition.formats.pairs_bin import write_pairs
from recognition.verification.metrics import fold_accuracy
from recognition.verification.protocols import (
    chance_warning,
    decode_images,
    distinct_images,
    embedded_rows,
    fit_square,
    open_pair_set,
    order_warning,
    verify_embeddings,
    verify_scores,
)
from recognition.verification.report import result_mapping, result_table, roc_plot, score_plot


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def flat(color, side=8):
    return np.full((side, side, 3), color, dtype=np.uint8)


@pytest.fixture
def pairs(tmp_path):
    """20 interleaved pairs; the pictures of one person share their color."""
    rng = np.random.default_rng(0)
    images, is_same = [], []
    for index in range(20):
        first = rng.integers(0, 256, 3)
        images += [png(flat(first)), png(flat(first if index % 2 == 0 else 255 - first))]
        is_same.append(index % 2 == 0)
    write_pairs(tmp_path / "toy.bin", images, is_same)
    return open_pair_set(tmp_path / "toy.bin")


def embed_color(pixels):
    return pixels[:, 0, 0, :].astype(np.float32) - 127.5


def test_a_perfect_embedding_is_right_everywhere(pairs):
    rows = np.stack(list(embedded_rows(embed_color, pairs.images, image_size=8, batch_size=7, place="toy")))
    result = verify_embeddings(pairs, rows)
    assert (result.accuracy, result.std, result.auc, result.eer) == (1.0, 0.0, 1.0, 0.0)
    assert (result.num_pairs, result.positive_rate, result.name) == (20, 0.5, "toy")
    assert result.sha256 == hashlib.sha256(pairs.path.read_bytes()).hexdigest()
    assert result.threshold_cosine == 1 - result.threshold_l2 / 2
    assert result.xnorm == pytest.approx(np.mean(np.linalg.norm(rows, axis=1)) / 2)
    assert [point.tar for point in result.tar_at_far] == [1.0, 1.0]
    assert chance_warning(result) is None


def test_the_batch_size_changes_nothing_and_bounds_what_is_embedded(pairs):
    sizes = []

    def embed(pixels):
        sizes.append(len(pixels))
        return embed_color(pixels)

    for batch_size in (1, 7, 40, 100):
        rows = list(embedded_rows(embed, pairs.images, image_size=8, batch_size=batch_size, place="toy"))
        np.testing.assert_array_equal(rows, embed_color(decode_images(pairs.images, image_size=8, place="toy")))
        assert max(sizes) <= batch_size
        sizes.clear()
    assert list(embedded_rows(embed, [], image_size=8, batch_size=4, place="toy")) == []


def test_an_image_that_does_not_decode_is_named_by_its_number(pairs):
    images = [*pairs.images[:9], b"not an image", *pairs.images[10:]]
    with pytest.raises(DataError, match=r"^toy\.bin: image 109: not an image"):
        list(embedded_rows(embed_color, images, image_size=8, batch_size=4, place="toy.bin", numbers=range(100, 200)))


def test_a_set_of_one_kind_or_too_few_pairs_is_refused_by_name(tmp_path):
    image = png(flat(0))
    write_pairs(tmp_path / "same.bin", [image] * 24, [True] * 12)
    with pytest.raises(DataError, match=r"same\.bin: 12 of 12 pairs show the same person; expected"):
        open_pair_set(tmp_path / "same.bin")
    write_pairs(tmp_path / "few.bin", [image] * 8, [True, False] * 2)
    with pytest.raises(DataError, match=r"few\.bin: 4 pairs; expected at least one per fold"):
        open_pair_set(tmp_path / "few.bin")
    assert len(open_pair_set(tmp_path / "few.bin", folds=2).images) == 8


def test_embeddings_that_are_not_finite_are_counted(pairs):
    rows = np.ones((40, 3), dtype=np.float32)
    rows[[3, 5], 1] = [np.nan, np.inf]
    with pytest.raises(DataError, match=r"toy\.bin: 2 of 40 embeddings are not finite; expected numbers"):
        verify_embeddings(pairs, rows)


def test_equal_embeddings_earn_the_warning_that_says_what_to_look_for(pairs):
    warning = chance_warning(verify_embeddings(pairs, np.ones((40, 3))))
    assert warning is not None
    assert warning.startswith("toy: accuracy 0.5000 is hardly better than guessing (0.5000)")
    for cause in ("channels", "flags", "aligned", "BatchNorm"):
        assert cause in warning


def test_folds_of_one_kind_earn_a_warning(pairs):
    blocks = dataclasses.replace(pairs, is_same=np.repeat([True, False] * 5, 30))  # as LFW's list: 5 folds of 30 + 30
    assert order_warning(blocks, 5) is None
    warning = order_warning(blocks, 10)
    assert warning is not None
    assert warning.startswith("toy: 10 of 10 folds hold pairs of one kind only")
    assert "interleave same and different pairs" in warning
    assert order_warning(pairs, 10) is None
    assert order_warning(pairs, 20) is None  # folds of one pair can hold one kind only


def test_folds_of_one_kind_lower_the_accuracy_of_the_same_scores(pairs):
    rng = np.random.default_rng(4)
    in_blocks = np.repeat([True, False], 300)
    scores = np.where(in_blocks, 0.42, 0.35) + rng.normal(0, 0.1, 600)
    interleaved = np.arange(600).reshape(2, 300).T.reshape(-1)
    accuracies = [
        verify_scores(dataclasses.replace(pairs, is_same=in_blocks[order]), scores[order], method="any").accuracy
        for order in (np.arange(600), interleaved)
    ]
    assert accuracies[0] < accuracies[1] - 0.02


def test_scores_of_a_baseline_get_the_threshold_that_suits_them_best(pairs):
    crowded = np.where(pairs.is_same, 0.99999, 0.99998)
    assert fold_accuracy(2 - 2 * crowded, pairs.is_same).mean == 0.5  # the field's thresholds are too coarse for these
    result = verify_scores(pairs, crowded, method="raw pixels")
    assert (result.accuracy, result.method, result.xnorm) == (1.0, "raw pixels", None)


def test_another_size_is_scaled_by_its_short_side_and_cut_in_the_middle():
    wide = np.zeros((20, 40, 3), dtype=np.uint8)
    wide[:, 10:30] = 200
    assert fit_square(wide, 10).shape == (10, 10, 3)
    assert (fit_square(wide, 10)[:, 2:8] == 200).all()
    tall = np.swapaxes(wide, 0, 1)
    np.testing.assert_array_equal(fit_square(tall, 20), np.full((20, 20, 3), 200))
    assert fit_square(wide[:, :20], 20) is not None
    assert fit_square(flat(7, side=9), 112).shape == (112, 112, 3)


def test_the_table_aligns_and_marks_a_far_that_cannot_be_shown(pairs):
    model = verify_embeddings(pairs, np.arange(120, dtype=float).reshape(40, 3))
    lines = result_table([model]).splitlines()
    assert lines[0].split() == [
        "set",
        "pairs",
        "same",
        "accuracy",
        "cosine",
        "L2²",
        "TAR@FAR1e-3",
        "(FAR)",
        "TAR@FAR1e-4",
        "(FAR)",
        "AUC",
        "EER",
        "norm",
    ]
    assert lines[1].startswith("toy     20  0.500  ")
    assert len(lines[0]) == len(lines[1])
    assert lines[1].count("(0)*") == 2
    assert lines[2].startswith("* too few pairs of different people")
    with_baseline = result_table([model, verify_scores(pairs, model.cosines, method="raw pixels")]).splitlines()
    assert "method" in with_baseline[0]
    assert with_baseline[2].startswith("toy  raw pixels     20")


def test_the_mapping_is_json_with_every_threshold_in_both_measures(pairs):
    result = verify_embeddings(pairs, np.arange(120, dtype=float).reshape(40, 3))
    mapping = json.loads(json.dumps(result_mapping(result), allow_nan=False))
    assert mapping["sha256"] == pairs.sha256
    assert mapping["threshold_l2"] == pytest.approx(2 - 2 * mapping["threshold_cosine"])
    for point, target in zip(mapping["tar_at_far"], (1e-3, 1e-4)):
        assert point["target"] == target
        assert point["far"] <= target
        assert point["threshold_l2"] == pytest.approx(2 - 2 * point["threshold_cosine"])
        assert point["resolution"] == 0.1
        assert point["is_resolved"] is False


def test_plots_are_png(pairs):
    pytest.importorskip("matplotlib")
    result = verify_embeddings(pairs, np.arange(120, dtype=float).reshape(40, 3))
    for content in (roc_plot([result, result]), score_plot(result)):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (600, 840, 3)


def test_a_picture_in_many_pairs_is_one_distinct_image() -> None:
    firsts, members = distinct_images([b"a", b"b", b"a", b"c", b"b", b"a"])
    assert firsts == [0, 1, 3]
    assert members.tolist() == [0, 1, 0, 2, 1, 0]
