"""clean_faces.py: the files it writes, what it refuses, and that a kill at any moment changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.backbones import build_backbone
from recognition.backbones.weights import load_backbone, save_backbone
from recognition.cleaning.decision_file import read_decisions
from recognition.cleaning.drawing import can_draw
from recognition.commands.clean_faces import main
from recognition.commands.embed_faces import main as embed
from recognition.formats.pairs_bin import write_pairs
from recognition.images.codec import encode_jpeg
from tests.helpers.people import people, person_vectors, read_jsonl, write_set
from tests.helpers.places import ROOT

NAMES = ["plain", "two words", "quo'te\"s", "a..b", "Zoë 文", "\udcff\udcfe", "a, b; c", "<b>&lt;"]
OUTPUTS = ["clean.lst", "clean.names", "decisions.jsonl", *(["scores.png"] if can_draw() else []), "summary.json"]


def _vectors() -> dict[str, np.ndarray]:
    """Return 24 people with odd names; among them two strangers, a misplaced picture, a copy, and one person twice."""
    counts = {f"{name} {i}" if i else name: 5 + i for i in range(3) for name in NAMES}
    vectors = people(counts)
    vectors["plain/stranger.jpg"] = person_vectors(100, 1)[0]
    vectors["a..b/stranger's.png"] = person_vectors(101, 1)[0]
    vectors["Zoë 文/of plain.jpg"] = person_vectors(0, 1, seed=4)[0]
    vectors["two words/copy.jpg"] = vectors["two words/001.jpg"]
    vectors |= {f"plain again/{i}.jpg": vector for i, vector in enumerate(person_vectors(0, 4, seed=5))}
    vectors["single/0.jpg"] = person_vectors(102, 1)[0]
    return vectors


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    write_set(root, _vectors())
    return root


def _arguments(dataset: Path, output: Path, *more: str) -> list[str]:
    return [str(dataset / "faces"), str(output), "--embeddings", str(dataset / "embedded"), "--quiet", *more]


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def cleaned(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("cleaned") / "out"
    assert main(_arguments(dataset, output)) == 0
    return output


def test_every_picture_is_decided_and_the_wrong_ones_rightly(cleaned: Path) -> None:
    vectors = _vectors()
    decided = {line.picture: line for line in read_decisions(cleaned / "decisions.jsonl")}
    assert list(decided) == sorted(vectors)
    changed = {name: (line.decision, line.to, line.reason) for name, line in decided.items() if line.decision != "keep"}
    copies = {"two words/copy.jpg", "two words/001.jpg"} & changed.keys()
    assert len(copies) == 1 and changed.pop(copies.pop()) == ("drop", None, "near_duplicate")
    assert changed == {
        "plain/stranger.jpg": ("drop", None, "minority_cluster"),
        "a..b/stranger's.png": ("drop", None, "minority_cluster"),
        "Zoë 文/of plain.jpg": ("move", "plain", "other_identity"),
        "single/0.jpg": ("drop", None, "small_identity"),
        **{f"plain again/{i}.jpg": ("move", "plain", "merged") for i in range(4)},
    }
    for line in decided.values():
        center = line.to or line.identity
        assert len(line.beside) == min(3, sum(name.startswith(f"{center}/") for name in vectors))
        own = [vectors[n] for n, d in decided.items() if d.decision != "drop" and (d.to or d.identity) == center]
        if line.decision == "keep" and len(own) > 1:
            expected = (np.sum([vectors[line.picture] @ other for other in own]) - 1) / (len(own) - 1)
            assert line.score == pytest.approx(expected, abs=1e-3)


def test_the_list_holds_what_is_kept_under_dense_labels(cleaned: Path) -> None:
    lines = [line.split("\t") for line in (cleaned / "clean.lst").read_text(errors="surrogateescape").splitlines()]
    kept = {d.picture: d.to or d.identity for d in read_decisions(cleaned / "decisions.jsonl") if d.decision != "drop"}
    assert {path for _, _, path in lines} == set(kept) and len(lines) == len(kept)
    assert [int(index) for index, _, _ in lines] == list(range(len(lines)))
    names = sorted(set(kept.values()))
    assert [int(label) for _, label, _ in lines] == sorted(names.index(kept[path]) for _, _, path in lines)
    assert all(names[int(label)] == kept[path] for _, label, path in lines)
    assert (cleaned / "clean.names").read_text(errors="surrogateescape").splitlines() == names
    summary = json.loads((cleaned / "summary.json").read_text())
    assert summary["pictures"] == {"before": len(_vectors()), "after": len(lines), "moved": 5}
    assert summary["identities"] == {"before": 26, "after": len(names)} and len(names) == 24
    assert [step["step"] for step in summary["steps"]] == ["within", "far", "merge", "misplaced", "duplicates", "small"]
    assert summary["steps"][-1]["pictures"] == len(lines)
    assert sorted(path.name for path in cleaned.iterdir()) == OUTPUTS


def test_the_table_adds_up(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    review = _write_review(tmp_path / "decisions.json", {"plain/000.jpg": ("drop", None)})
    arguments = [argument for argument in _arguments(dataset, tmp_path / "out") if argument != "--quiet"]
    assert main([*arguments, "--review", review]) == 0
    header, *lines, held_back, last = capsys.readouterr().out.splitlines()
    assert " ".join(header.split()) == "step threshold dropped restored pictures of them moved identities"
    pictures = len(_vectors())
    for line in lines:
        dropped, restored, now, moved, identities = (int(number.replace(",", "")) for number in line.split()[-5:])
        assert now == pictures - dropped + restored, line
        pictures = now
    rows = {line.split()[0]: line.split()[-5:] for line in lines}
    # The picture of somebody else is dropped by `within`, and comes back where it belongs: it is moved.
    assert rows["within"][:2] == ["3", "0"] and rows["misplaced"][1] == "1"
    assert (rows["merge"][3], rows["misplaced"][3]) == ("4", "5")
    assert rows["review"][:2] == ["1", "0"]
    assert last.startswith(
        f"kept {pictures} of {len(_vectors())} pictures ({moved} moved), {identities} of 26 identities"
    )
    assert held_back.startswith("of 20 pictures put with other people for a trial, within and far keep 0 (0.0 %;")


def test_embeddings_that_do_not_part_people_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for noise, verdict in ((0.5, "good enough to clean with"), (2.2, "take a better network")):
        write_set(tmp_path / str(noise), people({f"p{i:02}": 8 for i in range(40)}, noise=noise))
        assert main(_arguments(tmp_path / str(noise), tmp_path / "out", "--dry-run")) == 0
        (told,) = [line for line in capsys.readouterr().out.splitlines() if "for a trial" in line]
        assert told.startswith("of 32 pictures put") and told.endswith(verdict), told


def test_few_people_are_no_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path, people({f"p{i:02}": 8 for i in range(19)}))
    assert main(_arguments(tmp_path, tmp_path / "out", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["held_back"] is None


def test_the_list_can_be_packed(tmp_path: Path) -> None:
    vectors = {name: vector for name, vector in _vectors().items() if "\udcff" not in name}
    faces, _ = write_set(tmp_path, vectors)
    generator = np.random.default_rng(0)
    for name in vectors:
        (faces / name).write_bytes(encode_jpeg(generator.integers(0, 256, (16, 16, 3), np.uint8)))
    assert main(_arguments(tmp_path, tmp_path / "out")) == 0
    pack = [
        sys.executable,
        "data_tools/pack_rec.py",
        str(tmp_path / "out/clean.lst"),
        str(tmp_path / "train"),
        "--root",
    ]
    done = subprocess.run(
        [*pack, str(faces), "--json", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    packed = json.loads(done.stdout)
    assert packed["num_images"] == summary["pictures"]["after"]
    assert packed["num_identities"] == packed["num_classes"] == summary["identities"]["after"]


def test_a_dry_run_prints_the_numbers_and_writes_nothing(
    dataset: Path, cleaned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_arguments(dataset, tmp_path / "out", "--dry-run")) == 0
    assert list(tmp_path.iterdir()) == []
    text = capsys.readouterr().out
    assert "calibration" in text and text.rstrip().endswith("; nothing was written")
    before = _contents(cleaned)
    assert main(_arguments(dataset, cleaned, "--dry-run", "--json", "--steps", "far", "--far", "0.4")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["output"] is None and told["thresholds"] == {"far": {"cosine": 0.4, "from": "flag"}}
    assert _contents(cleaned) == before


def test_steps_run_alone_with_a_threshold_of_their_own(dataset: Path, tmp_path: Path) -> None:
    for step, reason in (("within", "minority_cluster"), ("merge", "merged"), ("duplicates", "near_duplicate")):
        threshold = {"within": "0.5", "merge": "0.6", "duplicates": "0.999"}[step]
        assert main(_arguments(dataset, tmp_path / step, "--steps", step, f"--{step}", threshold)) == 0
        reasons = Counter(line["reason"] for line in read_jsonl(tmp_path / step / "decisions.jsonl"))
        assert set(reasons) == {"kept", reason}


KILL = """
import os, signal, sys
sys.path.insert(0, {root!r})
from recognition.commands import clean_faces
from recognition.{room} import {file}
calls = 0
original = {module}.{function}
def killing(*args, **kwargs):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
{module}.{function} = killing
clean_faces.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "function", "at"),
    [
        ("cleaning.steps", "save_decisions", 1),
        ("cleaning.steps", "save_decisions", 4),
        ("cleaning.outputs", "_line", 50),
        ("work.work_folder.os", "replace", 2),
    ],
)
def test_a_killed_run_continues_to_the_same_files(
    dataset: Path, cleaned: Path, tmp_path: Path, module: str, function: str, at: int
) -> None:
    output = tmp_path / "out"
    room, _, rest = module.partition(".")
    file = rest.partition(".")[0]
    code = KILL.format(root=str(ROOT), room=room, file=file, module=rest, function=function, at=at)
    command = [sys.executable, "-c", code, *_arguments(dataset, output)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert (output / ".clean").is_dir()
    assert main(_arguments(dataset, output)) == 0
    assert _contents(output) == _contents(cleaned)


def test_finished_steps_are_not_done_again(
    dataset: Path, cleaned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recognition.cleaning import steps

    done: list[str] = []

    def noting(name: str, function):  # type: ignore[no-untyped-def]
        def run(context, decisions):  # type: ignore[no-untyped-def]
            if done == ["within", "far"] and name == "merge":
                raise KeyboardInterrupt
            done.append(name)
            return function(context, decisions)

        return run

    functions = {name: noting(name, function) for name, function in steps.STEP_FUNCTIONS.items()}
    monkeypatch.setattr(steps, "STEP_FUNCTIONS", functions)
    assert main(_arguments(dataset, tmp_path / "out")) == 130
    done.append("interrupted")
    assert main(_arguments(dataset, tmp_path / "out")) == 0
    assert done == ["within", "far", "interrupted", "merge", "misplaced", "duplicates", "small"]
    assert _contents(tmp_path / "out") == _contents(cleaned)


def test_a_killed_run_is_not_continued_with_other_flags(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recognition.cleaning.clean.write_decisions", _interrupt)
    assert main(_arguments(dataset, tmp_path / "out")) == 130
    monkeypatch.undo()
    assert main(_arguments(dataset, tmp_path / "out", "--seed", "3")) == 1
    assert "was begun with other settings (seed 0, now 3); expected the same to continue" in capsys.readouterr().err
    assert main(_arguments(dataset, tmp_path / "out", "--seed", "3", "--overwrite")) == 0


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def _write_review(path: Path, decisions: dict[str, tuple[str, str | None]]) -> str:
    entries = {picture: {"decision": decision, "to": to} for picture, (decision, to) in decisions.items()}
    path.write_text(json.dumps({"version": 1, "decisions": entries}))
    return str(path)


def test_a_review_changes_exactly_the_pictures_it_names(dataset: Path, cleaned: Path, tmp_path: Path) -> None:
    decided: dict[str, tuple[str, str | None]] = {
        "plain/stranger.jpg": ("keep", None),
        "plain/000.jpg": ("drop", None),
        "Zoë 文/of plain.jpg": ("move", "a..b"),
    }
    review = _write_review(tmp_path / "decisions.json", decided)
    before = {line["picture"]: line for line in read_jsonl(cleaned / "decisions.jsonl")}
    # At once, and onto a finished cleaning: the same.
    assert main(_arguments(dataset, tmp_path / "fresh", "--review", review)) == 0
    shutil.copytree(cleaned, tmp_path / "later")
    for _ in range(2):
        assert main(_arguments(dataset, tmp_path / "later", "--review", review)) == 0
        assert _contents(tmp_path / "later") == _contents(tmp_path / "fresh")
    after = {line["picture"]: line for line in read_jsonl(tmp_path / "fresh" / "decisions.jsonl")}
    assert {name for name in after if after[name] != before[name]} == set(decided)
    assert {name: (after[name]["decision"], after[name]["to"]) for name in decided} == decided
    kept = {name for name, line in after.items() if line["decision"] != "drop"}
    lines = (tmp_path / "fresh" / "clean.lst").read_text(errors="surrogateescape").splitlines()
    assert {line.split("\t")[2] for line in lines} == kept
    assert json.loads((tmp_path / "fresh" / "summary.json").read_text())["reasons"]["reviewed"] == 3


def test_a_killed_review_is_applied_by_the_next_run(
    dataset: Path, cleaned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = _write_review(tmp_path / "decisions.json", {"plain/000.jpg": ("drop", None)})
    expected, output = tmp_path / "expected", tmp_path / "out"
    for folder in (expected, output):
        shutil.copytree(cleaned, folder)
    assert main(_arguments(dataset, expected, "--review", review)) == 0
    monkeypatch.setattr("recognition.work.work_folder.sync_file", _interrupt)
    assert main(_arguments(dataset, output, "--review", review)) == 130
    monkeypatch.undo()
    assert main(_arguments(dataset, output, "--review", review)) == 0
    assert _contents(output) == _contents(expected)


def test_wrong_reviews_are_refused_and_change_nothing(
    dataset: Path, cleaned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(cleaned, output)
    for decisions, message in (
        ({"plain/999.jpg": ("keep", None)}, "no picture 'plain/999.jpg'; expected pictures of this set"),
        ({"plain/000.jpg": ("move", "nobody")}, "no identity 'nobody' to move to; expected one of this set"),
    ):
        review = _write_review(tmp_path / "decisions.json", decisions)  # type: ignore[arg-type]
        assert main(_arguments(dataset, output, "--review", review)) == 1
        assert message in capsys.readouterr().err
        assert _contents(output) == _contents(cleaned)
    review = _write_review(tmp_path / "decisions.json", {"plain/000.jpg": ("keep", None)})
    assert main(_arguments(dataset, output, "--review", review, "--min-pictures", "3")) == 1
    assert "was made with another min_pictures; expected the same to review it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "sharpen"], "--steps: 'sharpen'; expected some of within, far"),
        (["--within", "2"], "--within 2.0: expected a cosine in (-1, 1]"),
        (["--steps", "far", "--split", "4"], "--split 4: the step within does not run"),
        (
            ["--against", "lfw.bin"],
            "--against: the embeddings do not say what made them; expected a network; give --model",
        ),
        (["--against-names", "absent"], "absent: cannot be read"),
        (["--review", "absent.json"], "absent.json: cannot be read"),
        (["--far", "1"], "no picture is left; expected some; give lower thresholds"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(_arguments(dataset, tmp_path / "out", *more)) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("clean_faces: error: ") and error.count("\n") == 1
    if "--far" not in more:
        assert not (tmp_path / "out").exists()


def test_folders_that_do_not_fit_are_refused(
    dataset: Path, cleaned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for faces, output, message in (
        (dataset / "faces", cleaned, "holds a cleaning already; expected a new OUT; pass --overwrite to replace it"),
        (dataset / "faces", dataset, "is not empty; expected a new folder, or one this command began"),
        (dataset / "embedded", tmp_path / "out", "holds no folder"),
        (dataset / "absent", tmp_path / "out", "is not a folder; expected the folder of faces that was embedded"),
    ):
        assert main([str(faces), *_arguments(dataset, output)[1:]]) == 1
        assert message in capsys.readouterr().err
    write_set(tmp_path / "few", people({"a": 1, "b": 1}))
    assert main(_arguments(tmp_path / "few", tmp_path / "out")) == 1
    assert "too few to calibrate thresholds; expected 30 pairs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert (
        main(_arguments(tmp_path / "few", tmp_path / "out", "--steps", "within,far", "--far", "0", "--within", "0"))
        == 0
    )
    assert not (tmp_path / "out" / "scores.png").exists()


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pictures of 12 noise people, embedded by a small network, and a test set of two of them in a .bin."""
    root = tmp_path_factory.mktemp("pictured")
    generator = np.random.default_rng(0)
    tested = []
    for person in range(12):
        base = generator.integers(0, 256, (4, 4, 3))
        for i in range(5):
            blocks = np.clip(base + generator.integers(-20, 20, base.shape), 0, 255).astype(np.uint8)
            encoded = encode_jpeg(np.kron(blocks, np.ones((28, 28, 1), np.uint8)))
            if i < 4:
                path = root / "faces" / f"p{person:02}" / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded)
            elif person in (3, 8):
                tested += [encoded, encoded]
    write_pairs(root / "tested.bin", tested, [True, True])
    torch.manual_seed(0)
    save_backbone(build_backbone("tiny", embedding_size=32), root / "model.pt")
    model = ["--model", str(root / "model.pt"), "--device", "cpu", "--quiet"]
    assert embed([str(root / "faces"), str(root / "embedded"), *model]) == 0
    return root


def _against(pictured: Path, output: Path, *more: str) -> list[str]:
    vectors = np.load(pictured / "embedded" / "embeddings.npy").astype(np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    own = [units[i : i + 4] @ units[i : i + 4].mean(0) for i in range(0, 48, 4)]
    others = [units[i : i + 4] @ units[j : j + 4].mean(0) for i in range(0, 48, 4) for j in range(0, 48, 4) if i != j]
    assert np.max(others) < np.min(own), "the network tells these people apart"
    threshold = (np.max(others) + np.min(own)) / 2
    flags = ["--steps", "tests", "--tests", f"{threshold:.6f}", "--device", "cpu"]
    return _arguments(pictured, output, *flags, "--against", str(pictured / "tested.bin"), *more)


@pytest.mark.slow
def test_the_people_of_a_bin_are_removed_and_a_killed_embedding_continues(
    pictured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recognition.cleaning.against.EmbeddingStore.publish", _interrupt)
    assert main(_against(pictured, tmp_path / "out")) == 130
    monkeypatch.undo()
    monkeypatch.setattr("recognition.cleaning.against.EmbeddingStore.write", _interrupt)  # it is all there
    assert main(_against(pictured, tmp_path / "out")) == 0
    dropped = {
        line["identity"] for line in read_jsonl(tmp_path / "out" / "decisions.jsonl") if line["decision"] == "drop"
    }
    assert dropped == {"p03", "p08"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OUTPUTS


def test_the_summary_says_which_model_and_refuses_another(
    pictured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*_against(pictured, tmp_path / "out"), "--json", "--dry-run"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    facts = load_backbone(pictured / "model.pt").facts
    assert model == {"model": str(pictured / "model.pt"), **facts.as_json()}
    assert len(model["model_fingerprint"]) == 64
    torch.manual_seed(1)
    save_backbone(build_backbone("tiny", embedding_size=32), tmp_path / "other.pt")
    assert main(_against(pictured, tmp_path / "out", "--model", str(tmp_path / "other.pt"))) == 1
    assert f"expected {facts.fingerprint:.12}, the model of the embeddings" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_test_set_that_cannot_be_read_is_refused_before_the_work(
    pictured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.bin").write_bytes(b"\x80\x04K")
    for path in (tmp_path / "damaged.bin", tmp_path / "absent.bin", tmp_path / "absent"):
        assert main([*_against(pictured, tmp_path / "out")[:-1], str(path)]) == 1
        assert str(path) in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
