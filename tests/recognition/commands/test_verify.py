"""The command from weights and a .bin to a table, and one line for every bad request."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from recognition.backbones import build_backbone
from recognition.commands.verify import main
from recognition.embedding.embedder import Embedder
from recognition.formats.pairs_bin import write_pairs
from recognition.images.codec import encode_jpeg
from recognition.verification.protocols import embedded_rows, open_pair_set, verify_embeddings
from tests.helpers.places import ROOT


def write_set(path, num_pairs=12, seed=0):
    rng = np.random.default_rng(seed)
    images, is_same = [], []
    for index in range(num_pairs):
        first, other = np.kron(rng.integers(0, 256, (2, 7, 7, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        images += [encode_jpeg(first), encode_jpeg(first[:, ::-1] if index % 2 == 0 else other)]
        is_same.append(index % 2 == 0)
    write_pairs(path, images, is_same)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    torch.manual_seed(3)
    run = folder / "run"
    run.mkdir()
    torch.save(build_backbone("tiny", embedding_size=16).state_dict(), run / "model.pt")
    write_set(folder / "a.bin")
    write_set(folder / "b.bin", num_pairs=11, seed=1)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(*args):
    return main([str(arg) for arg in args])


def test_json_equals_the_protocol_on_the_same_weights(folder, capsys):
    assert run(folder / "run", folder / "a.bin", folder / "b.bin", "--json", "--quiet") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["network"], report["device"], report["num_pairs"], report["num_images"]) == ("tiny", "cpu", 23, 46)
    module = build_backbone("tiny", embedding_size=16)
    module.load_state_dict(torch.load(folder / "run" / "model.pt", weights_only=True))
    embedder = Embedder(module.eval(), device=torch.device("cpu"), batch_size=64, precision="off")
    for entry, name in zip(report["results"], ("a", "b")):
        pair_set = open_pair_set(folder / f"{name}.bin")
        rows = list(embedded_rows(embedder.embed, pair_set.images, image_size=112, batch_size=64, place=name))
        expected = verify_embeddings(pair_set, rows)
        assert (entry["set"], entry["method"], entry["sha256"]) == (name, "model", pair_set.sha256)
        assert (entry["accuracy"], entry["std"]) == (expected.accuracy, expected.std)
        assert entry["auc"] == expected.auc
        assert entry["xnorm"] == pytest.approx(expected.xnorm, rel=1e-5)


@pytest.mark.slow
def test_the_command_prints_a_table_and_ends_with_counts(folder):
    command = [sys.executable, str(ROOT / "eval" / "verify.py"), "run", "a.bin", "--device", "cpu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heading, row, *_, counts = done.stdout.splitlines()
    assert heading.split()[:5] == ["set", "pairs", "same", "accuracy", "cosine"]
    assert row.split()[:3] == ["a", "12", "0.500"]
    assert counts.startswith("verified 12 pairs of 1 set with tiny, 24 images embedded in ")


def test_a_bare_weight_file_gives_what_its_run_gives(folder, capsys):
    outputs = []
    for model in (folder / "run", folder / "run" / "model.pt"):
        assert run(model, folder / "a.bin", "--json", "--network", "tiny") == 0
        outputs.append(json.loads(capsys.readouterr().out)["results"])
    assert outputs[0] == outputs[1]


def test_baselines_are_measured_on_the_same_pairs_and_the_same_every_time(folder, capsys):
    outputs = []
    for _ in range(2):
        assert run(folder / "run", folder / "a.bin", "--baselines", "--json") == 0
        outputs.append(json.loads(capsys.readouterr().out)["results"])
    assert [entry["method"] for entry in outputs[0]] == ["model", "raw pixels", "color histogram", "untrained network"]
    assert len({entry["sha256"] for entry in outputs[0]}) == 1
    assert outputs[0] == outputs[1]
    # A mirrored picture has the colors of the picture.
    assert outputs[0][2]["auc"] == 1.0


def test_plots_are_written_once_and_replaced_only_when_told(folder, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    plots = tmp_path / "plots"
    assert run(folder / "run", folder / "a.bin", folder / "b.bin", "--plots", plots) == 0
    assert sorted(path.name for path in plots.iterdir()) == ["roc.png", "scores_a.png", "scores_b.png"]
    capsys.readouterr()
    assert run(folder / "run", folder / "a.bin", "--plots", plots) == 1
    assert "roc.png: exists already; expected a new path; pass --overwrite" in one_line(capsys)
    assert run(folder / "run", folder / "a.bin", "--plots", plots, "--overwrite") == 0


def test_plots_without_matplotlib_are_refused_before_anything_is_embedded(folder, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(folder / "run", folder / "a.bin", "--plots", tmp_path / "plots") == 1
    assert "--plots: matplotlib cannot be imported" in one_line(capsys)
    assert not (tmp_path / "plots").exists()


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("verify: error: ")
    return lines[0]


def test_every_bad_request_is_one_line(folder, capsys, tmp_path):
    (tmp_path / "text.bin").write_text("hello")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    write_set(tmp_path / "few.bin", num_pairs=4)
    pairs = open_pair_set(folder / "a.bin")
    write_pairs(tmp_path / "broken.bin", [*pairs.images[:23], b"text"], pairs.is_same)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "foreign.pt")
    model, good = folder / "run", folder / "a.bin"
    cases = [
        ((tmp_path / "no_run", good), "no_run"),
        ((tmp_path, good), "model.pt"),
        ((tmp_path / "junk.pt", good), "junk.pt"),
        ((tmp_path / "foreign.pt", good), "foreign.pt"),
        ((model, good, "--network", "r51"), "r51"),
        ((model, good, "--network", "r18"), "model.pt"),
        ((model, tmp_path / "no.bin"), "no.bin"),
        ((model, tmp_path / "text.bin"), "text.bin"),
        ((model, tmp_path / "few.bin"), "few.bin: 4 pairs; expected at least one per fold"),
        ((model, tmp_path / "broken.bin"), "broken.bin: image 23: not an image"),
        ((model, good, "--folds", "1"), "1 fold requested; expected at least 2"),
        ((model, good, good), "a set is named twice"),
        ((model, good, "--image-size", "64"), "tiny does not take images of 64 x 64 pixels"),
    ]
    for arguments, expected in cases:
        assert run(*arguments, "--quiet", "--device", "cpu") == 1, arguments
        assert expected in one_line(capsys)


def test_weights_that_hold_nan_are_an_error(folder, capsys, tmp_path):
    state = torch.load(folder / "run" / "model.pt", weights_only=True)
    key = next(iter(state))
    torch.save({**state, key: torch.full_like(state[key], float("nan"))}, tmp_path / "model.pt")
    assert run(tmp_path, folder / "a.bin", "--quiet") == 1
    assert f"of the {state[key].numel()} numbers in {key!r} are not finite" in one_line(capsys)


def test_the_image_size_of_a_run_is_read_from_its_config(folder, capsys, tmp_path):
    torch.save(build_backbone("tiny", embedding_size=16, image_size=48).state_dict(), tmp_path / "model.pt")
    assert run(tmp_path, folder / "a.bin", "--json") == 0
    bare = capsys.readouterr()
    assert json.loads(bare.out)["image_size"] == 64, "all that the keys say: a last map of 2 x 2"
    (tmp_path / "config.yaml").write_text(
        "data: {rec: train, image_size: 48}\nbackbone: {network: tiny, embedding_size: 16}\n"
    )
    for model in (tmp_path, tmp_path / "model.pt"):
        assert run(model, folder / "a.bin", "--json") == 0
        found = capsys.readouterr()
        assert json.loads(found.out)["image_size"] == 48
        assert "a: 24 of 24 images are not 48 x 48 pixels, as the model takes them; most are 112 x 112" in found.err
    for flags, message in (
        (["--image-size", "64"], "config.yaml says images of 48 pixels; --image-size asks for 64; leave it out"),
        (["--network", "mbf"], "config.yaml says network 'tiny'; asked for 'mbf'; leave the network out"),
    ):
        assert run(tmp_path, folder / "a.bin", "--quiet", *flags) == 1
        assert message in one_line(capsys)


def test_pictures_of_the_models_size_earn_no_warning(folder, capsys):
    assert run(folder / "run", folder / "a.bin", "--json", "--quiet") == 0
    assert "pixels" not in capsys.readouterr().err


def test_two_sets_of_one_name_are_told_apart_by_their_paths(folder, capsys, tmp_path):
    write_set(tmp_path / "a.bin", seed=5)
    assert run(folder / "run", folder / "a.bin", tmp_path / "a.bin", "--json") == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [entry["set"] for entry in results] == [str(folder / "a.bin"), str(tmp_path / "a.bin")]
