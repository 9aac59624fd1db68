"""What may be asked for, and what is refused before any work."""

from __future__ import annotations

import pytest

from recognition.cleaning.settings import check_given, choose_steps
from recognition.errors import ConfigError


def test_all_steps_that_apply_run_by_default_and_named_ones_in_their_order() -> None:
    assert choose_steps(None, has_tests=False) == ("within", "far", "merge", "misplaced", "duplicates", "small")
    assert choose_steps(None, has_tests=True)[-2:] == ("tests", "small")
    assert choose_steps("small, within", has_tests=False) == ("small", "within")


@pytest.mark.parametrize(
    ("text", "has_tests", "message"),
    [
        ("within,furthest", False, "--steps: 'furthest'; expected some of within, far, merge"),
        (",", False, "--steps: names none"),
        ("far,within,far", False, "far occurs twice; expected each step once"),
        ("within", True, "tests is not among --steps; expected both or neither"),
        ("tests", False, "neither --against nor --against-names is given"),
    ],
)
def test_steps_that_cannot_be_are_refused(text: str, has_tests: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_steps(text, has_tests=has_tests)


def test_thresholds_that_would_be_ignored_are_refused() -> None:
    check_given({"within": 0.5, "far": 1.0}, ["within"])
    with pytest.raises(ConfigError, match=r"--merge 0\.5: the step merge does not run; expected it in --steps; add it"):
        check_given({"merge": 0.5}, ["within", "far"])
    for value in (-1.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"--within .*: expected a cosine in \(-1, 1\]"):
            check_given({"within": value}, ["within"])
