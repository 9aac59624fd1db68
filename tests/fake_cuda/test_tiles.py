"""Tiles of a similarity graph on a CUDA device that computes nothing: what the host waits for.

Needs g++ and the torch the device was written for; with CI=true a skip is a failure.
"""

from __future__ import annotations

import pytest

from tests.fake_cuda.process import run_on_device

TILES = 6
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("candidates", [0, 3000, 30_000])  # none, few, so many that the whole product is taken
def test_the_host_waits_once_a_tile_and_never_for_the_newest(candidates: int) -> None:
    (seen,) = run_on_device("tiles", str(TILES), str(candidates))
    assert seen["pairs"] == TILES
    # A bool index, nonzero and item() raise where they happen; a copy that is waited for is one of these.
    assert seen["waits"] == []
    assert len(seen["crossings"]) == TILES * (2 + 1 + 3)  # rows and their lengths; how many passed; the pairs
    # Two more of either, with which the last two tiles come in.
    assert seen["met"].count("wait") == seen["met"].count("mark") - 1 == TILES + 2
    # What is read was asked for before the mark that was waited for: a count after one tile, three columns after two.
    reads = "".join({"mark": "", "wait": "|", "read": "r"}[each] for each in seen["met"]).split("|")[1:]
    assert reads == ["", "r", *["rrrr"] * (TILES - 1), "rrr"]
