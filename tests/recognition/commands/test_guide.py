"""docs/my_faces.md is true: its lines run in order in an installed environment, and end in a number that is earned."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from recognition.console import Stopwatch
from recognition.formats.class_names import read_class_names
from recognition.formats.image_list import parse_lst_line
from tests.helpers.installed import build_wheel, copy_source, install_wheel, run_outside
from tests.helpers.places import ROOT
from tests.helpers.review_hands import press, save

GUIDE = ROOT / "docs/my_faces.md"
GAIN = 0.1


def blocks() -> list[str]:
    """Return the blocks of the guide that are run; there are no others."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert {language for language, _ in found} == {"sh"}, "every block of the guide is run"
    return [code for _, code in found]


def test_the_config_of_the_guide_has_two_paths() -> None:
    text = (ROOT / "configs/my_faces.yaml").read_text(encoding="utf-8")
    assert re.findall(r"work_dirs/\S+", text) == ["work_dirs/mine/packed/train.rec", "work_dirs/mine/packed"]
    packed = [line for line in "".join(blocks()).splitlines() if "pack_" in line]
    assert "work_dirs/mine/packed/train " in packed[0] and "work_dirs/mine/packed/unseen.bin" in packed[1]


def test_the_readme_points_to_the_guide() -> None:
    assert "(docs/my_faces.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_make_align_shows_how_far_it_is() -> None:
    recipe = re.search(r"^align: setup\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe and "pip install" in recipe[1] and "quiet" not in recipe[1]


@pytest.mark.long
def test_every_line_of_the_guide_runs_and_the_network_has_learned(tmp_path: Path, open_page: Callable) -> None:
    pytest.importorskip("dlib", reason="the detector of the guide's drawn people: make align")
    pytest.importorskip("onnx", reason="the guide ends in an ONNX file: make export-tools")
    scripts = install_wheel(build_wheel(copy_source(tmp_path / "source"), tmp_path), tmp_path / "user/.venv")
    home = tmp_path / "user"
    watch, mine = Stopwatch(), home / "work_dirs/mine"
    for code in blocks():
        if "decisions.json" in code:  # what a person does in between: look, decide about two pictures, save
            page = open_page(mine / "review")
            press(page, "k", "k")
            save(page, mine)
        one_core = {"OMP_NUM_THREADS": "1", "PATH": f"{scripts}:/usr/bin:/bin"}
        print(run_outside(["bash", "-euo", "pipefail", "-c", code], home, **one_core))
    print(f"the guide took {watch.seconds:.0f} s")

    told = run_outside(
        [str(scripts / "arcshard"), "verify", "work_dirs/mine/run", "work_dirs/mine/packed/unseen.bin", "--baselines"]
        + ["--json", "--quiet"],
        home,
    )
    results = {result["method"]: result for result in json.loads(told)["results"]}
    trained, untrained = results["model"], results["untrained network"]
    assert trained["accuracy"] >= untrained["accuracy"] + GAIN
    low, high = trained["intervals"]["accuracy"]
    assert low <= trained["accuracy"] <= high

    aside = set((mine / "split/held_out.txt").read_text().split())
    lines = (mine / "packed/train.lst").read_bytes().splitlines()
    packed = {parse_lst_line(line, "")[1].split("/")[0] for line in lines}
    assert len(aside) >= 15 and aside.isdisjoint(packed)
    assert set(read_class_names(mine / "packed/train.names")) == packed
    decided = json.loads((mine / "cleaned/summary.json").read_text())
    assert decided["reasons"]["reviewed"] == 2
    assert (mine / "people.png").stat().st_size > 10_000
    report = (mine / "report.html").read_text(encoding="utf-8")
    assert "Pictures of one person that look least alike" in report and report.count('<div class="faces">') >= 10
    assert re.search(r"no person\S+ name is in both", report) and re.search(r"\b0 of \d+ pictures are in both", report)
    assert (mine / "model.onnx").is_file()
