"""MXNet 1.9.1 as referee, both ways: it reads what this project writes, and this project reads what it writes.

MXNet does not import beside a current NumPy, so it gets an environment of its own under build/, made once from the
`mxnet` extra. Without CI=true the tests are skipped until that environment is there:

    CI=true python -m pytest tests/interop
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from recognition.commands.convert_rec import main as convert
from recognition.commands.merge_rec import main as merge
from recognition.commands.pack_rec import main as pack
from recognition.commands.shuffle_rec import main as shuffle
from recognition.formats.recordio import MAGIC, RecordWriter, pack_image
from recognition.formats.records import ImageRecords
from recognition.images.codec import decode_rgb
from tests.helpers.referees import python_of

pytestmark = pytest.mark.slow

PEOPLE = {"ada": 3, "bea": 1, "cyd": 4}
WORD = MAGIC.to_bytes(4, "little")


@pytest.fixture(scope="session")
def mxnet_python() -> Path:
    # im2rec reads pictures with an OpenCV that still goes with that NumPy.
    return python_of("mxnet", "opencv-python-headless<4.8")


@pytest.fixture
def referee(mxnet_python: Path):
    def ask(what: str, *arguments: Any) -> Any:
        done = subprocess.run(
            [mxnet_python, Path(__file__).with_name("referee.py")],
            check=False,
            capture_output=True,
            text=True,
            input=json.dumps({"do": what, "with": [str(a) if isinstance(a, Path) else a for a in arguments]}),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, number in PEOPLE.items():
        for k in range(number):
            path = tmp_path / "faces" / name / f"{k}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), (16, 16)))
    return tmp_path / "faces"


def stored(faces: Path) -> list[tuple[float, bytes]]:
    people = sorted(PEOPLE)
    return [(float(people.index(path.parent.name)), path.read_bytes()) for path in sorted(faces.rglob("*.jpg"))]


def images(rows: list) -> list[tuple[float, bytes]]:
    return [(labels[0], base64.b64decode(image)) for _, _, labels, _, _, image in rows]


def ours(prefix: Path) -> list[tuple[float, bytes]]:
    records = ImageRecords(prefix)
    return [(float(records.read(i).label), records.read(i).image) for i in range(len(records))]


def test_mxnet_reads_the_default_layout_as_arcface_torch_does(faces: Path, tmp_path: Path, referee) -> None:
    assert pack([str(faces), str(tmp_path / "set" / "train")]) == 0
    rows = referee("read_as_arcface_torch", tmp_path / "set" / "train")
    assert [(label, base64.b64decode(image)) for label, image, _, _ in rows] == stored(faces)
    for _, image, shape, total in rows:
        pixels = decode_rgb(base64.b64decode(image), place="")
        assert list(pixels.shape) == shape
        # Two builds of libjpeg may round a pixel differently.
        assert abs(int(pixels.astype(np.int64).sum()) - total) <= pixels.size


def test_mxnet_reads_identity_records_and_key_0(faces: Path, tmp_path: Path, referee) -> None:
    assert pack([str(faces), str(tmp_path / "set" / "train")]) == 0
    rows = referee("read", tmp_path / "set" / "train")
    assert [row[0] for row in rows] == [*range(1, 12), 0]
    assert rows[8:] == [
        [9, 2, [1.0, 4.0], 9, 0, ""],
        [10, 2, [4.0, 5.0], 10, 0, ""],
        [11, 2, [5.0, 9.0], 11, 0, ""],
        [0, 2, [9.0, 12.0], 0, 1, ""],
    ]


@pytest.mark.parametrize("layout", ["sequential", "multilabel"])
def test_mxnet_reads_the_other_layouts(layout: str, faces: Path, tmp_path: Path, referee) -> None:
    assert pack([str(faces), str(tmp_path / "set" / "train"), "--layout", "sequential"]) == 0
    assert convert([str(tmp_path / "set"), str(tmp_path / "other" / "train"), "--to", layout]) == 0
    rows = referee("read", tmp_path / "other" / "train")
    assert images(rows) == stored(faces)
    assert [row[:2] for row in rows] == [[key, int(layout == "multilabel")] for key in range(8)]
    as_arcface = referee("read_as_arcface_torch", tmp_path / "set" / "train")
    assert [(label, base64.b64decode(image)) for label, image, _, _ in as_arcface] == stored(faces)


def test_mxnet_reads_what_shuffle_and_merge_wrote(faces: Path, tmp_path: Path, referee) -> None:
    assert pack([str(faces), str(tmp_path / "set" / "train")]) == 0
    assert shuffle([str(tmp_path / "set"), str(tmp_path / "shuffled" / "train")]) == 0
    assert sorted(images(referee("read", tmp_path / "shuffled" / "train"))) == sorted(stored(faces))
    assert merge([str(tmp_path / "set"), str(tmp_path / "shuffled"), str(tmp_path / "merged" / "train")]) == 0
    rows = referee("read_as_arcface_torch", tmp_path / "merged" / "train")
    assert len(rows) == 16
    assert {label for label, *_ in rows} == {float(label) for label in range(6)}


PAYLOADS = [
    b"abcd" + WORD + b"wxyz1",
    WORD,
    WORD + WORD + b"x",
    b"ab" + WORD + b"cd",
    b"",
    b"z" * 100_000 + WORD * 3 + b"end",
]


def test_mxnet_joins_the_records_we_split(tmp_path: Path, referee) -> None:
    with open(tmp_path / "split.rec", "wb") as rec, open(tmp_path / "split.idx", "wb") as idx:
        writer = RecordWriter(rec, idx)
        for key, image in enumerate(PAYLOADS):
            writer.write(key, pack_image(key, image, record_id=key))
    rows = referee("read", tmp_path / "split")
    assert images(rows) == [(float(key), image) for key, image in enumerate(PAYLOADS)]


def test_split_records_come_out_of_mxnet_with_our_bytes(tmp_path: Path, referee) -> None:
    rows = [[key, 0, [float(key)], key, 0, base64.b64encode(image).decode()] for key, image in enumerate(PAYLOADS)]
    referee("write", tmp_path / "theirs", rows)
    with open(tmp_path / "ours.rec", "wb") as rec, open(tmp_path / "ours.idx", "wb") as idx:
        writer = RecordWriter(rec, idx)
        for key, image in enumerate(PAYLOADS):
            writer.write(key, pack_image(key, image, record_id=key))
    for suffix in (".rec", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()


def test_we_read_what_mxnet_writes_with_many_labels(tmp_path: Path, referee) -> None:
    rows = [
        [key, 5, [float(key % 3), 0.5, -1.0, 7.25, 1e6], key, 0, base64.b64encode(b"image%d" % key).decode()]
        for key in range(6)
    ]
    referee("write", tmp_path / "many", rows)
    records = ImageRecords(tmp_path / "many")
    assert records.layout == "multilabel"
    assert ours(tmp_path / "many") == images(rows)
    assert records.header(4).labels == (1.0, 0.5, -1.0, 7.25, 1e6)


@pytest.mark.parametrize("flags", [(), ("--pack-label",)])
def test_we_read_what_im2rec_writes(flags: tuple[str, ...], faces: Path, tmp_path: Path, referee) -> None:
    referee("im2rec", tmp_path / "im2rec", faces, *flags)
    assert sorted(ours(tmp_path / "im2rec")) == sorted(stored(faces))
    assert sorted(images(referee("read", tmp_path / "im2rec"))) == sorted(stored(faces))


def test_an_im2rec_set_converts_to_one_that_arcface_torch_reads(faces: Path, tmp_path: Path, referee) -> None:
    referee("im2rec", tmp_path / "im2rec", faces)
    assert convert([str(tmp_path / "im2rec.rec"), str(tmp_path / "set" / "train"), "--to", "insightface"]) == 0
    rows = referee("read_as_arcface_torch", tmp_path / "set" / "train")
    assert sorted((label, base64.b64decode(image)) for label, image, _, _ in rows) == sorted(stored(faces))
