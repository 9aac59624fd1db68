"""How numbers are spelled."""

from __future__ import annotations

import pytest

from recognition.console import rate


@pytest.mark.parametrize(
    ("number", "seconds", "spelled"),
    [(6806, 1, "6,806/s"), (100, 10, "10/s"), (996, 100, "10/s"), (994, 100, "9.9/s"), (17, 5, "3.4/s")]
    + [(3, 60, "0.05/s"), (0, 5, "0.00/s"), (5, 0, "5,000,000,000/s")],
)
def test_a_rate_below_ten_has_a_digit(number: int, seconds: float, spelled: str) -> None:
    assert rate(number, seconds) == spelled
