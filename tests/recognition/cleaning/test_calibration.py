"""Thresholds from histograms, against mixtures whose parts are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.cleaning.calibration import BINS, Calibration, Separation, calibrate, histogram
from recognition.cleaning.pictures import Pictures
from recognition.errors import DataError
from tests.helpers.people import people, person_vectors, write_set


def _mixture(wrong: float, *, num: int = 200_000) -> tuple[Separation, np.ndarray, np.ndarray]:
    """Return right scores around 0.7 with a share of wrong ones, around 0.1, and both parts."""
    generator = np.random.default_rng(0)
    right, strangers = generator.normal(0.7, 0.1, num), generator.normal(0.1, 0.1, num)
    within = np.concatenate([right[round(num * wrong) :], generator.normal(0.1, 0.1, round(num * wrong))])
    return Separation(histogram(within), histogram(strangers)), right, strangers


def test_a_histogram_counts_every_score_once() -> None:
    counts = histogram(np.array([-1.0, -2.0, 1.0, 0.0, np.nan, 1 - 1e-9]))
    assert counts.sum() == 5 and counts[0] == 2 and counts[-1] == 2 and counts[BINS // 2] == 1


@pytest.mark.parametrize("wrong", [0.0, 0.01, 0.1, 0.4])
def test_the_share_of_wrong_labels_is_read_off(wrong: float) -> None:
    separation, right, strangers = _mixture(wrong)
    assert separation.wrong_share == pytest.approx(wrong, abs=0.003)
    equal = separation.equal_error()
    assert equal == pytest.approx(0.4, abs=0.04)  # 1 in 750 errs on either side: what the share is known to
    assert np.mean(right < equal) == pytest.approx(np.mean(strangers >= equal), abs=0.004)
    assert separation.right(0.5) == pytest.approx(0.7, abs=0.005)
    assert separation.right(0.1) == pytest.approx(np.quantile(right, 0.1), abs=0.005)
    assert separation.between_median() == pytest.approx(0.1, abs=0.005)


def test_fewest_errors_weighs_wrong_pictures_by_their_share() -> None:
    some, right, strangers = _mixture(0.1)
    errors = [0.9 * np.mean(right < t) + 0.1 * np.mean(strangers >= t) for t in np.linspace(0.2, 0.6, 401)]
    assert some.fewest_errors() == pytest.approx(np.linspace(0.2, 0.6, 401)[np.argmin(errors)], abs=0.02)
    clean, right, _ = _mixture(0.0)
    assert 0.1 < clean.fewest_errors() < right.min() + 0.001


def test_a_rare_score_is_read_off_or_carried_on() -> None:
    separation, _, strangers = _mixture(0.1)
    assert separation.rare(0.01) == pytest.approx(np.quantile(strangers, 0.99), abs=0.002)
    assert separation.rare(2e-4) == pytest.approx(0.1 + 0.1 * 3.540, abs=0.01)
    assert separation.rare(1e-6) == pytest.approx(0.1 + 0.1 * 4.753, abs=0.02)
    assert separation.rare(1e-9) == pytest.approx(0.1 + 0.1 * 5.998, abs=0.03)
    few = Separation(separation.within, histogram(strangers[:500]))
    assert few.rare(1e-6) == pytest.approx(np.quantile(strangers[:500], 1 - 30 / 500), abs=0.002), "too few to go by"


def test_the_more_there_are_to_compare_with_the_surer_a_match_has_to_be() -> None:
    separation, _, _ = _mixture(0.1)
    calibration = Calibration(separation, separation, separation)
    few = calibration.thresholds(num_identities=10, num_tested=10)
    many = calibration.thresholds(num_identities=10**7, num_tested=10**8)
    assert few["merge"] == few["misplaced"] == few["tests"] == separation.right(0.1)
    assert many["merge"] == separation.rare(2e-9) > few["merge"]
    assert many["misplaced"] == separation.rare(5e-9) > few["misplaced"]
    assert many["tests"] == separation.rare(5e-10) > few["tests"]
    assert [many[step] for step in ("within", "far")] == [few[step] for step in ("within", "far")]


def test_thresholds_stand_between_right_and_wrong(tmp_path: Path) -> None:
    vectors = people({f"p{i}": 3 + i % 5 for i in range(40)})
    for i in range(0, 40, 5):
        vectors[f"p{i}/002.jpg"] = person_vectors(i + 1, 1, seed=9)[0]
    pictures = Pictures(write_set(tmp_path, vectors)[1])
    calibration = calibrate(pictures, seed=0)
    thresholds = calibration.thresholds(num_identities=40)
    assert 0.2 < thresholds["within"] < 0.75
    assert 0.2 < thresholds["far"] < 0.75
    assert thresholds["far"] < thresholds["misplaced"] < 0.8 < thresholds["duplicates"] < 1
    assert calibration.pictures.wrong_share == pytest.approx(8 / len(vectors), abs=0.03)
    assert calibrate(pictures, seed=0).thresholds(num_identities=40) == thresholds
    assert calibration.as_json()["pairs"]["num_within"] == int(calibration.pairs.within.sum())


def test_a_sample_is_enough_of_a_large_set(tmp_path: Path) -> None:
    pictures = Pictures(write_set(tmp_path, people({f"p{i:03}": 5 for i in range(200)}))[1])
    whole, part = calibrate(pictures, seed=0), calibrate(pictures, seed=0, sample=300)
    assert part.pairs.within.sum() < whole.pairs.within.sum() / 3
    for step, threshold in whole.thresholds(num_identities=200).items():
        assert part.thresholds(num_identities=200)[step] == pytest.approx(threshold, abs=0.15), step


@pytest.mark.parametrize("counts", [{"a": 1}, {"a": 40}, {"a": 1, "b": 1, "c": 1}])
def test_a_set_that_says_nothing_is_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    pictures = Pictures(write_set(tmp_path, people(counts))[1])
    with pytest.raises(DataError, match=r"too few to calibrate thresholds; expected 30 pairs .*; give the thresholds"):
        calibrate(pictures, seed=0)
