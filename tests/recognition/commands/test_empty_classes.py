"""Sets with empty classes: one warning in every command that meets them, and the command in it closes the gaps."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from recognition.commands.check_rec import main as check
from recognition.commands.convert_rec import main as convert
from recognition.commands.pack_rec import main as pack
from recognition.formats.records import ImageRecords
from tests.helpers.sets import picture, png, write_rec

FOUND = "3 of 1,008 classes have an image; the 1,005 without one take memory and teach nothing; to renumber: "


@pytest.fixture
def sparse(tmp_path):
    """Three people whose class ids are 1000, 1001 and 1007."""
    write_rec(tmp_path / "train", [(1000 + [0, 1, 7][i % 3], png(picture(20 * i))) for i in range(9)])
    return tmp_path / "train.rec"


def test_the_command_of_the_warning_closes_the_gaps(sparse, tmp_path, capsys, monkeypatch):
    assert check([str(sparse), "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert f"{sparse}: {FOUND}" in warning
    command = shlex.split(re.search(r"python -m recognition (convert_rec .*)", warning)[1])
    monkeypatch.chdir(tmp_path)
    assert convert([*command[1:], "--quiet"]) == 0
    records = ImageRecords(tmp_path / "OUT")
    assert (records.num_classes, records.labels().tolist()) == (3, [0] * 3 + [1] * 3 + [2] * 3)
    before = ImageRecords(sparse)
    assert [records.read(i).image for i in range(3)] == [before.read(i).image for i in (0, 3, 6)]
    assert "\t1007/" in (tmp_path / "OUT/train.lst").read_text().splitlines()[-1], "the old class id stays known"
    capsys.readouterr()
    assert check([str(tmp_path / "OUT")]) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "where"), [("webdataset", "train"), ("sequential", "")])
def test_shards_and_plain_sets_are_renumbered_too(sparse, tmp_path, kind, where):
    assert convert([str(sparse), str(tmp_path / "other/train"), "--to", kind, "--quiet"]) == 0
    assert (
        convert(
            [
                str(tmp_path / "other" / where),
                str(tmp_path / "new/train"),
                "--to",
                "sequential",
                "--renumber",
                "--quiet",
            ]
        )
        == 0
    )
    assert sorted(set(ImageRecords(tmp_path / "new").labels().tolist())) == [0, 1, 2]


def test_packing_a_list_with_gaps_warns(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(png(picture(1)))
    (tmp_path / "list.lst").write_text("".join(f"{k}\t{label}\ta.png\n" for k, label in enumerate([1000, 1001, 1007])))
    assert pack([str(tmp_path / "list.lst"), str(tmp_path / "out/train"), "--quiet"]) == 0
    assert f"{tmp_path}/out/train.rec: {FOUND}" in capsys.readouterr().err
