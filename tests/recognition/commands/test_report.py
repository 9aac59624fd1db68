"""The report from weights and pairs to a page in a real browser, where names are text and nothing is loaded."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from recognition.backbones import build_backbone
from recognition.commands.pack_bin import main as pack_bin
from recognition.commands.report import main
from recognition.formats.pairs_about import PairsAbout, render_about
from recognition.images.codec import encode_jpeg
from recognition.verification.hardest import hardest_accepts, hardest_rejects, most_confused
from recognition.verification.page import JudgedSet, render_page
from recognition.verification.protocols import PairSet, verify_scores
from recognition.work.files import file_sha256

HOSTILE = [
    '"><script>window.ran=1</script>',
    "<img src=x onerror=window.ran=1>",
    "</style><script>window.ran=1</script>",
    "' onmouseover='window.ran=1",
    "Zoë 名前",
    "\u202egpj.exe",
    "&lt;b&gt;",
    "$\\frac{",
    "caf\udce9",
    "a\nb\t",
]


def color(number: int) -> np.ndarray:
    """Return a picture that no other number has: three colors, one above the other."""
    rows = np.random.default_rng(number).integers(0, 256, (3, 1, 3), np.uint8)
    return cv2.resize(rows, (112, 112), interpolation=cv2.INTER_NEAREST)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with curves, and 24 pairs, which are all shown, of ten people with hostile names."""
    root = tmp_path_factory.mktemp("report")
    torch.manual_seed(3)
    (root / "run").mkdir()
    torch.save(build_backbone("tiny", embedding_size=16).state_dict(), root / "run" / "model.pt")
    records = [
        {"step": step, "kind": "train", "loss": 9.0 / step, "top1": 0.1 * step, "lr": 0.1} for step in range(1, 9)
    ]
    records += [{"step": step, "kind": HOSTILE[0], "accuracy": 0.5 + 0.01 * step} for step in (1, 8)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (root / "run" / "metrics.jsonl").write_text(lines + '{"step": 9, "kind": "tr')
    people = [f"p{i}" for i in range(10)]
    pairs = []
    for i in range(24):
        first, second = people[i % 10], people[i % 10 if i % 2 == 0 else (i + 1 + i // 10) % 10]
        for who, side in ((first, "a"), (second, "b")):
            path = root / "faces" / who / f"{i}{side}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(color(zlib.crc32(path.name.encode()))))
        pairs.append(f"{first}/{i}a.jpg\t{second}/{i}b.jpg\t{int(first == second)}\n")
    (root / "pairs.txt").write_text("".join(pairs))
    assert pack_bin([str(root / "pairs.txt"), str(root / "faces"), str(root / "set.bin"), "--quiet"]) == 0
    about = json.loads((root / "set.json").read_text())
    for column in ("people", "names"):
        for number, name in enumerate(people):
            hostile = HOSTILE[number]
            about[column] = [
                value.replace(name, hostile, 1) if value.split("/")[0] == name else value for value in about[column]
            ]
    about["groups"] = [HOSTILE[0] if len(name) % 2 else HOSTILE[1] for name in about["people"]]
    (root / "set.json").write_text(json.dumps(about))
    return root


def report(made: Path, folder: Path, *more: str) -> Path:
    """Write a page as index.html of a folder."""
    folder.mkdir(exist_ok=True)
    argv = [
        str(made / "run"),
        str(made / "set.bin"),
        "--output",
        str(folder / "index.html"),
        "--quiet",
        "--device",
        "cpu",
    ]
    assert main([*argv, "--title", HOSTILE[0], *more]) == 0
    return folder


@pytest.mark.slow
def test_names_are_text_and_the_page_loads_nothing(made: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    folder = report(made, tmp_path / "page", "--against", str(made / "faces"), "--quality", "length")
    page = open_page(folder)
    assert page.evaluate("window.ran") is None
    assert page.locator("h1").text_content() == HOSTILE[0]
    assert page.evaluate("document.querySelectorAll('script, img, iframe, link').length") == 0
    text = page.locator("body").text_content()
    for name in (
        "Zoë 名前",
        "&lt;b&gt;",
        "\\u202egpj.exe",
        "caf\\udce9",
        "a\\nb\\t",
        "<img src=x onerror=window.ran=1>",
    ):
        assert name in text, name
    assert "\u202e" not in text
    # 12 hardest of either kind; every face is on the screen, at a size that one can see.
    assert page.locator(".pair").count() >= 24
    for face in (page.locator(".pair .faces svg").first, page.locator(".pair .faces svg").nth(40)):
        face.scroll_into_view_if_needed()
        screen = cv2.imdecode(np.frombuffer(face.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert min(screen.shape[:2]) > 60 and screen.std() > 10, "a thumbnail is drawn"
    assert "pictures are in both, or nearly the same" in text and "The numbers above are too good" in text
    assert page.locator("figure").count() == 8, "ROC, DET, scores, rejects, loss, top-1, rate, accuracy"
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.emulate_media(media="print")
    assert page.locator(".pair").first.is_visible()
    assert len(page.pdf(format="A4")) > 20_000


@pytest.mark.slow
def test_every_number_is_the_one_that_verify_reports(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from recognition.commands.verify import main as verify

    page = (report(made, tmp_path / "page") / "index.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert verify([str(made / "run"), str(made / "set.bin"), "--json", "--quiet", "--device", "cpu"]) == 0
    entry = json.loads(capsys.readouterr().out)["results"][0]
    for name in ("accuracy", "auc", "eer", "precision", "recall", "f1"):
        assert f"<td>{entry[name]:.4f}" in page, name
    for low, high in entry["intervals"].values():
        assert f"<small>[{low:.3f}, {high:.3f}]</small>" in page
    assert entry["num_people"] == 10 and "auc" in entry["intervals"]
    assert {row["group"] for row in entry["groups"]} <= {HOSTILE[0], HOSTILE[1], "across groups"}
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_several_models_and_a_quality_network_are_side_by_side(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    torch.manual_seed(4)
    torch.save(build_backbone("tiny", embedding_size=16).state_dict(), other / "model.pt")
    page = (report(made, tmp_path / "page", "--also", str(other)) / "index.html").read_text(encoding="utf-8")
    assert page.count('<table class="card">') == 2
    assert f"set, {other}" in page


def test_a_bad_request_is_one_line_and_leaves_nothing(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.html").write_text("mine")
    run, pairs = str(made / "run"), str(made / "set.bin")
    for argv, expected in (
        ([run], "expected MODEL and at least one SET, or --from-scores"),
        ([run, pairs, "--output", str(tmp_path / "there.html")], "there.html: exists already"),
        ([run, str(tmp_path / "no.bin")], "no.bin: cannot be read"),
        ([run, pairs, "--groups", str(tmp_path / "none")], "none: cannot be read"),
    ):
        output = [] if "--output" in argv else ["--output", str(tmp_path / "new.html")]
        assert main([*argv, *output, "--quiet", "--device", "cpu"]) == 1
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    assert (tmp_path / "there.html").read_text() == "mine" and not (tmp_path / "new.html").exists()


def test_a_quality_network_that_is_none_is_one_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "quality.onnx").write_bytes(b"junk")
    argv = [str(made / "run"), str(made / "set.bin"), "--quality", str(tmp_path / "quality.onnx")]
    assert main([*argv, "--output", str(tmp_path / "new.html"), "--quiet", "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert "quality.onnx: cannot be read as ONNX" in error and error.count("\n") == 1
    assert not (tmp_path / "new.html").exists()


def some_result() -> JudgedSet:
    is_same = np.array([True, False] * 30)
    scores = np.where(is_same, 0.6, 0.1) + np.linspace(0, 0.01, 60)
    scores[[1, 3, 5]], scores[[0, 2]] = (0.9, 0.8, 0.7), (-0.5, -0.4)
    names = [f"p{i % 6}" if side == 0 or is_same[i] else f"q{i % 6}" for i in range(60) for side in (0, 1)]
    pair_set = PairSet("x", Path("x"), "0" * 64, [], is_same, PairsAbout(people=tuple(names)))
    return JudgedSet(pair_set, verify_scores(pair_set, scores, method="model"))


def test_the_hardest_pairs_are_those_that_the_scores_say() -> None:
    judged = some_result()
    accepts, rejects = hardest_accepts(judged.result), hardest_rejects(judged.result)
    assert [pair.pair for pair in accepts[:3]] == [1, 3, 5] and [pair.score for pair in accepts[:3]] == [0.9, 0.8, 0.7]
    assert [pair.pair for pair in rejects[:2]] == [0, 2]
    assert all(pair.is_wrong for pair in [*accepts[:3], *rejects[:2]])
    assert not accepts[3].is_wrong and len(accepts) == len(rejects) == 12
    confused = most_confused(judged.result, judged.pair_set)
    assert [(each.first, each.second, each.num_accepted) for each in confused] == [
        ("p1", "q1", 1),
        ("p3", "q3", 1),
        ("p5", "q5", 1),
    ]
    assert confused[0].num_pairs == 10


def test_a_page_of_scores_alone_has_no_pictures() -> None:
    page = render_page("x", [some_result()], cards=[{"model": "<b>"}])
    assert "<use" not in page and "&lt;b&gt;" in page and "Not compared" in page


def test_what_is_written_beside_a_bin_can_be_changed_only_with_it(made: Path) -> None:
    about = PairsAbout(names=("a", "b", "a", "c"))
    text = json.loads(render_about(about, sha256=file_sha256(made / "set.bin")))
    assert (text["names"], text["images"]) == (["a", "b", "c"], [0, 1, 0, 2])
