"""The votes of edges."""

from __future__ import annotations

import numpy as np
import pytest

from recognition.clustering.graph import SimilarityGraph
from recognition.clustering.weights import EDGE_WEIGHTS, EdgeWeight, weigh_edges

GRAPH = SimilarityGraph(4, np.int32([0, 1, 2]), np.int32([1, 2, 3]), np.float32([0.5, 0.75, 0.9]))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("equal", [1, 1, 1]), ("cosine", [0.5, 0.75, 0.9]), ("excess", [0, 0.25, 0.4]), ("excess2", [0, 0.0625, 0.16])],
)
def test_weights_by_their_definition(kind: EdgeWeight, expected: list[float]) -> None:
    found = weigh_edges(GRAPH, 0.5, kind)
    np.testing.assert_allclose(found.weight, expected, atol=1e-7)
    assert found.weight.dtype == np.float32
    assert (found.first is GRAPH.first, found.second is GRAPH.second) == (True, True)
    assert kind in EDGE_WEIGHTS


def test_a_weight_below_the_threshold_by_a_rounding_is_no_negative_vote() -> None:
    assert weigh_edges(GRAPH, 0.500001, "excess2").weight[0] == 0
