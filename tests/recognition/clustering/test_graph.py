"""pairs_above: exactly the pairs that float64 finds, whatever cuts the work, in the memory that was stated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.clustering import graph as graph_module
from recognition.clustering import sieve
from recognition.clustering.graph import pairs_above
from recognition.clustering.sieve import Sieve
from recognition.clustering.torch_tiles import TorchTiles
from recognition.clustering.unit_rows import blocks, unit_divisors, unit_rows
from recognition.errors import DataError
from tests.helpers.graphs import edges_of, exact_cosines, people
from tests.helpers.places import ROOT


@pytest.mark.parametrize("threshold", [0.55, 0.2, -0.1, -1.0])
@pytest.mark.parametrize("num_rows", [1, 2, 16, 17, 150])
def test_the_pairs_are_those_float64_finds(num_rows: int, threshold: float) -> None:
    embeddings = people(num_rows)
    cosines = exact_cosines(embeddings)
    expected = np.argwhere(np.triu(cosines > threshold, 1))
    graph = pairs_above(embeddings, threshold, memory_bytes=2**21)
    assert edges_of(graph) == list(map(tuple, expected.tolist()))
    assert (graph.first.dtype, graph.second.dtype, graph.weight.dtype) == (np.int32, np.int32, np.float32)
    assert graph.num_nodes == num_rows
    np.testing.assert_allclose(graph.weight, cosines[graph.first, graph.second], rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, None])
def test_neither_blocks_nor_precision_nor_a_map_change_a_bit(
    dtype: torch.dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = people(300)
    monkeypatch.setattr(graph_module, "_NUMPY_PRODUCTS", 0 if dtype else 10**12)
    monkeypatch.setattr(sieve, "_prefers_bfloat16", lambda device: dtype == torch.bfloat16)
    np.save(tmp_path / "rows.npy", embeddings)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for threshold in (0.6, 0.0):  # few pairs, computed row by row, and many, by whole products
        cosines = exact_cosines(embeddings)
        first, second = np.nonzero(np.triu(cosines > threshold, 1))
        for memory_bytes in (2**21, 2**23, 2**30):
            graph = pairs_above(mapped, threshold, memory_bytes=memory_bytes)
            assert np.array_equal(graph.first, first) and np.array_equal(graph.second, second)
            assert np.array_equal(graph.weight, cosines[first, second].astype(np.float32))


@pytest.mark.parametrize("threshold", [0.6, 0.0, 2.0])  # few pairs, many, none
@pytest.mark.parametrize("num_rows", [1, 64, 200])
def test_tiles_that_are_read_late_hold_the_same_pairs(num_rows: int, threshold: float) -> None:
    embeddings = people(num_rows)
    rows_of = blocks(num_rows, 64)
    tiles = [(rows, columns) for i, rows in enumerate(rows_of) for columns in rows_of[i:]]
    late, at_once = (list(TorchTiles(embeddings, threshold, "cpu", runs_ahead=ahead)(tiles)) for ahead in (True, False))
    assert len(late) == len(at_once) == len(tiles)
    for ours, theirs in zip(late, at_once):
        for one, other in zip(ours, theirs):
            assert one.dtype == other.dtype and np.array_equal(one, other)
    assert (sum(len(first) for first, _, _ in late) > 0) == (threshold < 1 and num_rows > 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_over_their_divisors_are_unit_rows(dtype: type[np.floating]) -> None:
    embeddings = people(50, dimension=513).astype(dtype)
    embeddings[7] = 0
    divisors = unit_divisors(embeddings, range(3, 40))
    expected = unit_rows(embeddings, range(3, 40), np.float64)
    assert np.array_equal(embeddings[3:40] / divisors[:, None], expected)
    assert divisors[4] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dimension", [1, 7, 512])
def test_a_rough_cosine_is_within_the_sieves_error(dtype: torch.dtype, dimension: int) -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.standard_normal((200, dimension)), rng.standard_normal((50, 1)) + np.ones(dimension)])
    unit = torch.from_numpy(unit_rows(rows, range(len(rows)), np.float64))
    rough = unit.to(dtype) @ unit.to(dtype).T
    off = (rough.double() - unit @ unit.T).abs().max().item()
    found = Sieve.of(dtype, dimension)
    assert off <= found.error
    assert found.error < 0.02
    # A threshold is rounded to the dtype, too: one between two of its numbers must not lose a pair.
    for threshold in (0.3, 0.7001, 0.93755):
        passed = rough > threshold - found.error
        assert passed[unit @ unit.T > threshold].all()


def test_small_sets_are_clustered_without_the_start_of_torch_or_numba() -> None:
    code = (
        "import sys, numpy; from recognition.clustering.graph import pairs_above;"
        "from recognition.clustering.whispers import chinese_whispers;"
        "chinese_whispers(pairs_above(numpy.eye(9, dtype=numpy.float32) + 1, 0.1));"
        "assert not {'torch', 'numba', 'tqdm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("products", [0, 10**12])
def test_a_row_of_zeros_has_no_edge(products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "_NUMPY_PRODUCTS", products)
    embeddings = people(40)
    embeddings[[3, 17]] = 0
    graph = pairs_above(embeddings, 0.0)
    assert graph.num_edges > 100
    assert not {3, 17} & {*graph.first.tolist(), *graph.second.tolist()}


@pytest.mark.parametrize("products", [0, 10**12])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float, products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "_NUMPY_PRODUCTS", products)
    embeddings = people(2100)
    embeddings[2077, 5] = bad
    with pytest.raises(DataError, match=r"embedding 2,077: is not finite; expected numbers; embed that image again"):
        pairs_above(embeddings, 0.5)


def test_pairs_that_do_not_fit_the_memory_are_refused() -> None:
    message = r"pairs above -1.0 and more to come; expected what fits 341.3 KiB; raise the threshold or the memory"
    with pytest.raises(DataError, match=message):
        pairs_above(people(400), -1.0, memory_bytes=2**20)


def test_no_rows_make_no_graph() -> None:
    graph = pairs_above(np.empty((0, 8), np.float32), 0.5)
    assert (graph.num_nodes, graph.num_edges, graph.weight.dtype) == (0, 0, np.float32)


def test_above_keeps_the_heavier_edges() -> None:
    embeddings = people(100)
    assert edges_of(pairs_above(embeddings, 0.1).above(0.4)) == edges_of(pairs_above(embeddings, 0.4))


MEASURE = """
import sys
import numpy as np, torch
from benchmarks.peak_memory import peak, start_watching
from recognition.clustering import graph as graphs
from recognition.clustering.graph import pairs_above
from recognition.clustering.neighbors import nearest_neighbors
from recognition.clustering.whispers import chinese_whispers

cpu = torch.device("cpu")
torch.set_num_threads(1)
rows = np.random.default_rng(0).standard_normal((6000, 32)).astype(np.float32)
chinese_whispers(pairs_above(rows[:200], 0.25, memory_bytes=2**22))  # libraries loaded and compiled before
nearest_neighbors(rows[:200], 40, memory_bytes=2**22)
stated, ample = map(int, sys.argv[1:])
for memory_bytes, numpy_products in ((stated, 4e11), (stated, 0), (ample, 0)):  # by NumPy, by torch
    graphs._NUMPY_PRODUCTS = numpy_products
    before = start_watching(cpu)
    graph = pairs_above(rows, 0.28, memory_bytes=memory_bytes)
    after_graph = peak(cpu)
    chinese_whispers(graph)
    print(after_graph - before, peak(cpu) - before, graph.num_edges)
    del graph
before = start_watching(cpu)
nearest_neighbors(rows, 40, memory_bytes=stated)
print(peak(cpu) - before)
"""


@pytest.mark.slow
def test_memory_stays_within_what_was_stated() -> None:
    stated, ample = 54 * 2**20, 2**30
    limit = 0.85 * stated
    command = [sys.executable, "-c", MEASURE, str(stated), str(ample)]
    # What is freed goes back at once: otherwise the allocator keeps some of it, more or less from run to run.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    *bounded, (ample_bytes, _, as_many), (nearest_bytes,) = (
        map(int, line.split()) for line in done.stdout.splitlines()
    )
    for graph_bytes, all_bytes, num_edges in bounded:
        assert num_edges == as_many > 800_000
        assert graph_bytes < limit
        assert all_bytes < limit  # whispers come after the search has let go of its tiles
    assert nearest_bytes < limit
    assert ample_bytes > 1.1 * limit, "with more allowed it takes more: the test can tell"
