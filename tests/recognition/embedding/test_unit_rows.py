"""Rows at length one: what has no length or no finite number stays and is told apart."""

from __future__ import annotations

import numpy as np

from recognition.embedding.unit_rows import to_unit_rows_


def test_rows_get_length_one_and_what_has_none_stays() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]])
    lengths = to_unit_rows_(rows)
    assert lengths[:3].tolist() == [5.0, 0.0, np.inf] and np.isnan(lengths[3])
    assert rows[:3].tolist() == [[0.6, 0.8], [0.0, 0.0], [np.inf, 1.0]]
    assert np.isnan(rows[3, 0]) and rows[3, 1] == 1


def test_a_single_precision_row_stays_single() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 512)).astype(np.float32)
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    to_unit_rows_(rows)
    assert rows.dtype == np.float32 and np.array_equal(rows, expected)
