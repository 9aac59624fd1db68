"""cluster_faces.py: people found in an embedding store, in files that the other commands read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from recognition.commands.cluster_faces import main
from recognition.embedding.store import EmbeddingStore, Keyed, block_range
from recognition.formats.image_list import LstFile

NUM, PEOPLE = 200, 9


ABOUT = {"model": "synthetic", "model_fingerprint": "f" * 64}


def write_store(folder: Path, vectors: np.ndarray, keyed: list[Keyed]) -> Path:
    """Publish embeddings as embed_faces.py does."""
    store = EmbeddingStore.begin(folder, *vectors.shape, ABOUT)
    for block in store.missing:
        rows = block_range(len(vectors), block)
        store.write(block, vectors[rows.start : rows.stop])
    store.publish(keyed, ABOUT)
    return folder


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.random.default_rng(0).integers(0, PEOPLE, NUM)


@pytest.fixture(scope="module")
def embedded(truth: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 faces of 9 people, far from each other, of any length, and two rows that agree with nobody."""
    rng = np.random.default_rng(1)
    vectors = (np.eye(PEOPLE, 32) * 14)[truth] + rng.standard_normal((NUM, 32))
    vectors[[50, 150]] = -np.abs(vectors[[50, 150]])
    keyed = [Keyed(f"p {label}/ü{i:03}.jpg", int(label)) for i, label in enumerate(truth)]
    vectors = (vectors * rng.uniform(0.5, 3, (NUM, 1))).astype(np.float32)
    return write_store(tmp_path_factory.mktemp("store") / "embedded", vectors, keyed)


@pytest.fixture
def expected(truth: np.ndarray) -> list[int]:
    names: dict[int, int] = {}
    people = [PEOPLE + i if i in (50, 150) else int(person) for i, person in enumerate(truth)]
    return [names.setdefault(person, len(names)) for person in people]


@pytest.mark.parametrize("graph", ["pairs", "nearest", "approximate"])
def test_people_become_clusters(
    graph: str, embedded: Path, truth: np.ndarray, expected: list[int], tmp_path: Path, capsys
) -> None:
    if graph == "approximate":
        pytest.importorskip("faiss")
    output = tmp_path / "clusters.jsonl"
    assert main([str(embedded), str(output), "--threshold", "0.6", "--graph", graph, "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["cluster"] for line in lines] == expected
    assert [line["key"] for line in lines] == [f"p {label}/ü{i:03}.jpg" for i, label in enumerate(truth)]
    out = capsys.readouterr().out
    assert "clustered 200 images into 11 clusters (2 of one image, the largest of " in out
    assert ("graph recall 1.0000: true neighbors above the threshold" in out) == (graph == "approximate")


def test_the_lst_is_one_that_pack_rec_reads(embedded: Path, expected: list[int], tmp_path: Path, capsys) -> None:
    output = tmp_path / "clusters.lst"
    assert main([str(embedded), str(output), "--threshold", "0.6", "--json", "--compare", "--device", "cpu"]) == 0
    listed = list(LstFile(output, tmp_path, by_label=False))
    assert [image.label for image in listed] == expected
    assert [image.name[-8:] for image in listed] == [f"ü{i:03}.jpg" for i in range(NUM)]
    counts = json.loads(capsys.readouterr().out)
    assert (counts["model"]["model"], counts["model"]["model_fingerprint"]) == ("synthetic", "f" * 64)
    sizes = np.bincount(expected)
    assert (counts["num_images"], counts["num_clusters"], counts["num_single"]) == (NUM, 11, 2)
    assert counts["largest"] == sizes.max()
    assert counts["num_edges"] == sum(size * (size - 1) // 2 for size in sizes.tolist())
    assert counts["pairwise"]["precision"] == counts["bcubed"]["precision"] == 1
    assert 0.9 < counts["pairwise"]["recall"] < 1, "two faces were split off"


def test_votes_and_their_order_are_the_flags(tmp_path: Path) -> None:
    """A chain whose middle leans to one end: by cosines it follows, with equal votes it goes to the lower label."""
    angles = np.deg2rad([0, 50, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    store = write_store(tmp_path / "e", vectors, [Keyed(f"{i}.jpg", 0) for i in range(3)])
    found = {}
    for weights in ("equal", "cosine", "excess", "excess2"):
        for seed in range(1, 9):
            output = tmp_path / f"{weights}{seed}.jsonl"
            arguments = ["--threshold", "0.5", "--weights", weights, "--seed", str(seed), "--iterations", "1"]
            assert main([str(store), str(output), *arguments, "--device", "cpu", "--quiet"]) == 0
            clusters = tuple(json.loads(line)["cluster"] for line in output.read_text().splitlines())
            found.setdefault(weights, set()).add(clusters)
    assert len(found["equal"]) > 1, "the seed has an effect"
    assert found["equal"] != found["excess"] == found["cosine"]


def test_an_existing_output_is_kept_without_overwrite(embedded: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "clusters.jsonl"
    output.write_text("mine\n")
    arguments = [str(embedded), str(output), "--threshold", "0.6", "--quiet", "--device", "cpu"]
    assert main(arguments) == 1
    assert f"cluster_faces: error: {output}: exists already; expected a new path" in capsys.readouterr().err
    assert output.read_text() == "mine\n"
    assert main([*arguments, "--overwrite"]) == 0
    assert len(output.read_text().splitlines()) == NUM


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("c.txt", ["--threshold", "0.5"], "c.txt: expected a name that ends in .lst or .jsonl; choose such a name"),
        ("c.lst", ["--threshold", "1"], "--threshold 1.0: expected a cosine in [-1, 1); choose such a number"),
        ("c.lst", ["--threshold", "nan"], "--threshold nan: expected a cosine in [-1, 1)"),
        (
            "c.lst",
            ["--threshold", "0.5", "--neighbors", "9"],
            "--neighbors: means nothing to --graph pairs; expected nearest or approximate",
        ),
        (
            "c.lst",
            ["--threshold", "0.5", "--graph", "nearest", "--storage", "int8"],
            "--storage: means nothing to --graph nearest; expected approximate",
        ),
        ("c.lst", ["--threshold", "-1", "--memory", "1"], "pairs above -1.0 and more to come; expected what fits"),
    ],
)
def test_flags_that_cannot_be_are_one_line(
    name: str, arguments: list[str], message: str, embedded: Path, tmp_path: Path, capsys
) -> None:
    assert main([str(embedded), str(tmp_path / name), *arguments, "--quiet", "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["17", "a/b\tc.jpg", "a/b\nc.jpg"])
def test_keys_that_are_no_paths_go_to_json_lines(key: str, tmp_path: Path, capsys) -> None:
    vectors = np.eye(3, dtype=np.float32)
    store = write_store(tmp_path / "e", vectors, [Keyed("x.jpg", 0), Keyed(key, 0), Keyed("z.jpg", 1)])
    arguments = ["--threshold", "0.5", "--quiet", "--device", "cpu"]
    assert main([str(store), str(tmp_path / "c.lst"), *arguments]) == 1
    assert f"key {key!r} is no path for a .lst; expected an image's; write OUT.jsonl instead" in capsys.readouterr().err
    assert main([str(store), str(tmp_path / "c.jsonl"), *arguments]) == 0
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert lines[1] == {"key": key, "cluster": 1}


def test_a_damaged_row_and_a_missing_store_are_told(tmp_path: Path, capsys) -> None:
    vectors = np.eye(3, dtype=np.float32)
    vectors[2, 0] = np.nan
    store = write_store(tmp_path / "e", vectors, [Keyed(f"{i}.jpg", 0) for i in range(3)])
    arguments = ["--threshold", "0.5", "--quiet", "--device", "cpu"]
    assert main([str(store), str(tmp_path / "c.lst"), *arguments]) == 1
    assert "embedding 2: is not finite; expected numbers" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing"), str(tmp_path / "c.lst"), *arguments]) == 1
    assert "nothing: holds no embeddings; expected the output of embed_faces.py" in capsys.readouterr().err
    assert not (tmp_path / "c.lst").exists()


def test_the_flag_of_older_versions_is_taken_with_a_line_that_names_the_new(
    embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for flag in ("--neighbors", "--neighbours"):
        command = [
            str(embedded),
            str(tmp_path / f"{flag}.jsonl"),
            "--threshold",
            "0.3",
            "--graph",
            "nearest",
            "--quiet",
        ]
        assert main([*command, flag, "2", "--json"]) == 0
        answer = capsys.readouterr()
        found.append(json.loads(answer.out)["num_edges"])
    assert answer.err == "cluster_faces: --neighbours is called --neighbors now\n"
    assert found[0] == found[1]
    with pytest.raises(SystemExit):
        main([str(embedded), "x.jsonl", "--threshold", "0.3", "--neighbours", "0"])
