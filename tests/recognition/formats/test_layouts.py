"""A layout is one file and a line of the registry: reading, writing, and the commands take it up by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recognition.commands import check_rec, convert_rec, pack_rec
from recognition.errors import ConfigError
from recognition.formats import index_cache
from recognition.formats.image_streams import RecStream
from recognition.formats.layouts import LAYOUTS, Layout, find_layout
from recognition.formats.record_index import RecordIndex
from recognition.formats.records import ImageRecords
from recognition.images.codec import encode_jpeg
from tests.helpers.registries import entered

# A set whose last record, key 0, holds nothing but a text; its images are counted from 10.
LAYOUT_FILE = """
from recognition.formats.layouts import Layout, Parts
from recognition.formats.recordio import pack_payload

END = b"end of set"


class Closed(Layout):
    first_key = 10

    def find(self, index, read_payload):
        last = len(index) - 1
        if not read_payload(last).endswith(END):
            return None
        return Parts("closed", range(last), range(0), last)

    def after_images(self, starts, stop):
        yield 0, pack_payload(0.0, END)
"""


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "layout_closed.py").write_text(LAYOUT_FILE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with entered(LAYOUTS, "closed", "layout_closed:Closed"):
        yield


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "faces" / f"person{number // 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    return tmp_path / "faces"


@pytest.mark.usefixtures("closed")
def test_a_layout_added_in_one_file_is_written_recognized_checked_and_converted(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [path.read_bytes() for path in sorted(faces.rglob("*.jpg"))]
    monkeypatch.setattr(index_cache, "MIN_IDX_BYTES", 0)  # the cache holds the layout by its name
    assert pack_rec.main([str(faces), str(tmp_path / "set" / "train"), "--layout", "closed"]) == 0
    for _ in range(2):
        records = ImageRecords(tmp_path / "set")
        assert (records.layout, len(records), records.num_classes) == ("closed", 6, 3)
        assert [(record.key, record.image) for record in map(records.read, range(6))] == list(enumerate(images, 10))
    capsys.readouterr()
    assert check_rec.main([str(tmp_path / "set"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layout"] == "closed"
    assert convert_rec.main([str(tmp_path / "set"), str(tmp_path / "plain" / "train"), "--to", "insightface"]) == 0
    assert convert_rec.main([str(tmp_path / "plain"), str(tmp_path / "again" / "train"), "--to", "closed"]) == 0
    assert [image.image for image in RecStream(ImageRecords(tmp_path / "again"))] == images
    assert (tmp_path / "again" / "train.rec").read_bytes() == (tmp_path / "set" / "train.rec").read_bytes()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_of_every_layout_is_recognized_as_that(name: str, faces: Path, tmp_path: Path) -> None:
    assert pack_rec.main([str(faces), str(tmp_path / "plain" / "train")]) == 0
    assert convert_rec.main([str(tmp_path / "plain"), str(tmp_path / "set" / "train"), "--to", name]) == 0
    assert ImageRecords(tmp_path / "set").layout == name
    assert issubclass(LAYOUTS[name], Layout)


def test_an_empty_set_and_an_unknown_layout_are_refused() -> None:
    with pytest.raises(Exception, match="has 0 records and no image; expected at least one"):
        find_layout(RecordIndex(np.zeros(0, np.int64), np.zeros(1, np.int64)), lambda slot: b"")
    with pytest.raises(ConfigError, match="unknown layout 'insigtface'; did you mean 'insightface'"):
        LAYOUTS["insigtface"]
