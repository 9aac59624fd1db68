"""The probability that a decision is wrong: its sum is about the number of errors there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recognition.cleaning.clean import clean
from recognition.cleaning.decision_file import Decision, read_decisions
from recognition.cleaning.pictures import Pictures
from recognition.cleaning.risk import _falling
from recognition.cleaning.settings import CleanSettings, Machine
from tests.helpers.people import person_vectors, write_set

NUM_PEOPLE, PICTURES = 80, 12


def cleaned(folder: Path, noise: float, seed: int) -> tuple[list[Decision], set[str]]:
    """Clean people of whom a tenth of the pictures shows somebody else; return the decisions and these pictures."""
    generator = np.random.default_rng(seed)
    vectors, wrong = {}, set()
    for person in range(NUM_PEOPLE):
        for i, vector in enumerate(person_vectors(person, PICTURES, noise=noise, seed=seed)):
            name = f"p{person:02}/{i:02}.jpg"
            if generator.random() < 0.1:
                wrong.add(name)
                vector = person_vectors(1000 + len(wrong), 1, noise=noise, seed=seed)[0]
            vectors[name] = vector
    write_set(folder, vectors)
    (folder / "work").mkdir()
    settings = CleanSettings(steps=("within", "far"))
    clean(Pictures(folder / "embedded"), settings, folder / "work", machine=Machine(), review=None)
    return list(read_decisions(folder / "work/decisions.jsonl")), wrong


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1.0, 1.6])
def test_the_expected_errors_are_about_those_there_are(tmp_path: Path, noise: float) -> None:
    expected, actual, first, errors_after = 0.0, 0, 0.0, 0
    for seed in range(3):
        lines, wrong = cleaned(tmp_path / str(seed), noise, seed)
        errors = {line.picture for line in lines if (line.decision == "keep") == (line.picture in wrong)}
        assert all(line.risk is not None for line in lines)
        expected += sum(line.risk or 0 for line in lines)
        actual += len(errors)
        by_doubt = sorted(lines, key=lambda line: -line.doubt)
        first += sum(line.risk or 0 for line in by_doubt[100:])
        errors_after += sum(line.picture in errors for line in by_doubt[100:])
    # Half and double, and three for each of the three sets: where hardly any error is left, chance is all there is.
    assert actual / 2 - 9 <= expected <= 2 * actual + 9
    assert errors_after / 2 - 9 <= first <= 2 * errors_after + 9 and first < expected / 2


def test_a_lower_score_never_makes_a_stranger_less_likely() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        parts = generator.random(50) * (generator.random(50) < 0.7)
        wholes = parts + generator.random(50) * (generator.random(50) < 0.7)
        found = _falling(parts, wholes)
        assert found.shape == (50,) and (np.diff(found) <= 1e-12).all() and found.min() >= 0 and found.max() <= 1
    assert _falling(np.array([0.0, 1, 0]), np.array([0.0, 1, 2])).tolist() == [1, 1, 0]
