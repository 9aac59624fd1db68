"""The table of bad inputs: what a user gets to read for each, in one line with place, found, expected and what to do.

Every command is called as from a shell, in a folder with a good set, weights and pairs beside the bad input. It must
end with status 1 and one line on stderr, run nothing that a file asks for, and leave nothing behind but a run's log.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.__main__ import commands
from recognition.backbones import build_backbone
from recognition.backbones.weights import save_backbone
from recognition.commands.pack_rec import main as pack_rec
from recognition.formats.pairs_bin import write_pairs
from recognition.images.codec import encode_jpeg
from recognition.work.append import LogFile
from tests.helpers.places import ROOT

MODULES = {
    "train_v2": "recognition.commands.train",
}
LOGS = ("train.log", "rank0.log", ".launcher", ".lock", "run.json", "config.yaml", "classes.names", "metrics.jsonl")


@dataclass(frozen=True)
class Bad:
    """A command line, the four parts of its answer, and what is done to the folder before."""

    line: str
    place: str
    found: str
    expected: str
    advice: str
    damage: Callable[[Path], object] = lambda folder: None


def file(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Return what writes one more file."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def config(text: str) -> Callable[[Path], object]:
    """Return what writes another mine.yaml on top of the base."""
    return file("mine.yaml", f"base: {ROOT}/configs/base.yaml\n{text}\n")


def patch(name: str, at: int, content: bytes) -> Callable[[Path], object]:
    """Return what overwrites some bytes of a file."""

    def overwrite(folder: Path) -> None:
        whole = bytearray((folder / name).read_bytes())
        whole[at : at + len(content)] = content
        (folder / name).write_bytes(whole)

    return overwrite


class Malice:
    """Pickles to a call of os.system that leaves a file named ran."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


def hostile_weights(folder: Path) -> None:
    torch.save({"fc.weight": Malice()}, folder / "evil.pt")


def hostile_pairs(folder: Path) -> None:
    (folder / "evil.bin").write_bytes(pickle.dumps(([Malice(), b""], [True])))


def mixed_sizes(folder: Path) -> None:
    (folder / "faces" / "p1" / "9.jpg").write_bytes(encode_jpeg(np.zeros((40, 40, 3), np.uint8)))


def shard_missing(folder: Path) -> None:
    for rank in (0, 2):
        file(f"old/checkpoint_gpu_{rank}.pt", b"")(folder)


def empty(folder: Path) -> None:
    (folder / "empty").mkdir()


HEADER = "NAME_ID,X,Y,W,H\n"

TABLE = [
    # training: configs
    Bad("train_v2 minee", "minee:", "no such config", "expected it here", "did you mean 'mine'"),
    Bad(
        "train_v2 mine",
        "mine.yaml:2:",
        "optim.lrr",
        "unknown key",
        "did you mean 'optim.lr'",
        config("optim: {lrr: 1}"),
    ),
    Bad("train_v2 TINY optim.lr=fast", "optim.lr=fast", "found 'fast'", "expected a finite number", "correct it"),
    Bad("train_v2 TINY train.num_epoch=0", "train.num_epoch", "found 0", "expected at least 1", "correct it"),
    Bad("train_v2 TINY optim.betas=[0.8,0.9]", "optim.betas", "would be ignored", "optim.optimizer sgd", "remove this"),
    Bad("train_v2 mine", "mine.yaml:3:", "given twice", "expected once", "keep one", config("seed: 1\nseed: 2")),
    Bad(
        "train_v2 mine",
        "mine.yaml:2:",
        "found the tag !!python/object/apply:os.system",
        "expected a plain value",
        "remove the tag",
        config("output: !!python/object/apply:os.system ['touch ran']"),
    ),
    Bad(
        "train_v2 mine",
        "mine.yaml:1:",
        "the chain returns to itself",
        "mine.yaml -> mine.yaml",
        "remove one",
        file("mine.yaml", "base: mine\n"),
    ),
    # training: data and weights
    Bad("train_v2 TINY data.rec=nowhere", "nowhere:", "no such file", "expected a packed set", "set data.rec"),
    Bad("train_v2 TINY data.num_classes=2", "data.num_classes", "states 2", "train.rec need 3", "correct it or leave"),
    Bad(
        "train_v2 TINY data.rec=synthetic data.num_image=64 data.num_classes=4000000000 backbone.embedding_size=65536",
        "rank 0 on cpu:",
        "tried to allocate",
        "expected room for what --check",
        "take more ranks",
    ),
    Bad("train_v2 TINY train.batch_size=200", "train.batch_size", "9 images", "one global batch of 200", "lower train"),
    Bad("train_v2 TINY data.image_size=64", "train.rec: record", "is 32x32", "expected 64x64", "set data.image_size"),
    Bad(
        "train_v2 TINY",
        "train.idx:2:",
        r"'2\tx'",
        "expected 'key TAB offset'",
        "remove the file",
        file("train.idx", "1\t0\n2\tx\n"),
    ),
    Bad(
        "train_v2 TINY",
        "train.idx: key 1",
        "offset 99999999",
        "expected one inside",
        "copy both again",
        file("train.idx", "1\t99999999\n"),
    ),
    Bad(
        "train_v2 TINY",
        "property:1:",
        "'three,32,32'",
        "expected num_classes,height,width",
        "correct the file",
        file("property", "three,32,32\n"),
    ),
    Bad(
        "train_v2 TINY",
        "train.rec: record 1 at offset 0",
        "found 0x78787878",
        "a record starts with 0xced7230a",
        "remove it to have it rebuilt",
        patch("train.rec", 0, b"xxxx"),
    ),
    Bad("train_v2 TINY init_from=none.pt", "none.pt:", "not found", "expected a run folder", "check the path"),
    Bad(
        "train_v2 TINY init_from=evil.pt",
        "evil.pt:",
        "asks for posix.system",
        "expected a state dict",
        "take another",
        hostile_weights,
    ),
    Bad(
        "train_v2 TINY backbone.embedding_size=32 init_from=model.pt",
        "model.pt:",
        "fc.weight [16, 128]",
        "instead of [32, 128]",
        "they are those of backbone.network=tiny backbone.embedding_size=16",
    ),
    Bad("train_v2 TINY head.init=class_means", "head.init", "class_means", "needs a network", "set init_from"),
    Bad("train_v2 TINY validation.val_targets=[agedb]", "val_targets", "'agedb'", "expected agedb.bin", "set valid"),
    Bad("train_v2 TINY output=/proc/none", "/proc/none:", "cannot be written", "a writable folder", "set output="),
    # packing
    Bad("pack_rec nowhere out/x", "nowhere:", "no such file or folder", "expected a folder", "check the path"),
    Bad(
        "pack_rec faces out/x",
        "faces/p0/3.jpg:",
        "begins with b'no pictu'",
        "expected a JPEG or PNG",
        "--skip-bad",
        file("faces/p0/3.jpg", "no picture"),
    ),
    Bad("pack_rec faces out/x", "faces/p1/9.jpg:", "40 x 40", "32 x 32", "pass --size to resize", mixed_sizes),
    Bad(
        "pack_rec faces out/x",
        "faces/empty:",
        "holds no image, but 1 other file: .txt 1",
        "expected .jpg, .jpeg, .jpe, .jfif or .png",
        "move the folder",
        file("faces/empty/readme.txt", ""),
    ),
    Bad(
        "pack_rec bad.lst out/x",
        "bad.lst:1:",
        r"'0\tada'",
        "expected 'index TAB label TAB path'",
        "fix the line",
        file("bad.lst", "0\tada\n"),
    ),
    Bad(
        "pack_rec bad.lst out/x",
        "bad.lst:1:",
        "'../secret.jpg' leads out",
        "expected a path below",
        "set --root",
        file("bad.lst", "0\t0\t../secret.jpg\n"),
    ),
    Bad(
        "pack_rec faces out/x",
        r"p0/0\nb.jpg",
        "a line break",
        "expected none",
        "rename it",
        lambda folder: (folder / "faces/p0/0.jpg").rename(folder / "faces/p0/0\nb.jpg"),
    ),
    Bad("pack_rec faces train", "train.rec:", "exists already", "expected a new path", "pass --overwrite"),
    Bad("pack_rec faces out/x --quality 101", "--quality", "101", "expected 1 to 100", "choose one"),
    Bad("unpack_rec none.rec out", "none.rec:", "no such file", "expected a .rec", "check it"),
    Bad("unpack_rec train.rec out --keys 1,x", "--keys:", "'x'", "expected a key such as 5", "correct it"),
    Bad("unpack_rec train.rec out --keys 0-9999999", "--keys:", "'0-9999999'", "expected no more than", "the set has"),
    Bad("unpack_rec train.rec faces", "faces:", "is not empty", "expected a new folder", "choose another"),
    Bad(
        "check_rec train.rec",
        "record 1 at offset 0",
        "a JPEG without a marker",
        "expected a whole picture",
        "remove or replace it",
        patch("train.rec", 40, b"x" * 20),
    ),
    Bad(
        "convert_rec shards out --to folder",
        "shards/0.tar:",
        "not a whole .tar",
        "expected an uncompressed shard",
        "fetch it again",
        file("shards/0.tar", b"0.jpg" + bytes(95) + b"0000644\0" + bytes(400)),
    ),
    Bad(
        "merge_rec train.rec train.rec out/x --map m.txt",
        "m.txt:1:",
        "'0 0'",
        "expected 'set TAB class id TAB new",
        "fix the line",
        file("m.txt", "0 0\n"),
    ),
    Bad(
        "shuffle_rec train.rec out/x",
        "train.rec: record 1 at offset 0",
        "found 0x78787878",
        "0xced7230a",
        "remove it to have it rebuilt",
        patch("train.rec", 0, b"xxxx"),
    ),
    Bad("preview_batch mine out.png data.rec=nowhere", "nowhere:", "no such file", "expected a packed", "set data"),
    # pairs and verification
    Bad(
        "pack_bin bad.txt faces out.bin",
        "bad.txt:1:",
        "maybe'",
        "expected `path path 0|1`",
        "fix the line",
        file("bad.txt", "p0/0.jpg p0/1.jpg maybe\n"),
    ),
    Bad(
        "pack_bin bad.txt faces out.bin",
        "faces:",
        "1 of 2 images are missing: p9/1.jpg",
        "expected every image",
        "add them",
        file("bad.txt", "p0/0.jpg p9/1.jpg 1\n"),
    ),
    Bad(
        "pack_bin bad.txt faces out.bin",
        "faces:",
        "'../lfw.bin' leads out",
        "expected a path below",
        "fix the list",
        file("bad.txt", "../lfw.bin p0/1.jpg 1\n"),
    ),
    Bad("make_pairs faces out.txt --pairs 6000", "fold 1:", "give 3 same pairs", "expected 300", "lower --pairs"),
    Bad("hold_out faces out --people 9", "faces:", "can be set aside", "expected 9 and two", "lower --people"),
    Bad("hold_out faces out --people 1 --root x", "--root:", "is for a .lst", "is its own root", "leave it out"),
    Bad("unpack_bin none.bin out", "none.bin:", "cannot be read", "expected a verification .bin", "check the path"),
    Bad(
        "unpack_bin lfw.bin out",
        "lfw.json:",
        "describes another lfw.bin",
        "expected",
        "pack again, or remove it",
        file("lfw.json", '{"arcshard_pairs": 1, "sha256": "0"}'),
    ),
    Bad("export nowhere out.onnx", "nowhere:", "not found", "expected a run folder", "check the path"),
    Bad("report model.pt none.bin", "none.bin:", "cannot be read", "expected a verification .bin", "check the path"),
    Bad("plot_embedding faces out", "faces:", "holds no embeddings", "expected the output", "run it to its end"),
    Bad(
        "verify --from-scores scores.tsv",
        "scores.tsv:2:",
        "found 'high'",
        "expected a finite number",
        "fix the line",
        file("scores.tsv", "0.5 1\nhigh 0\n"),
    ),
    Bad(
        "verify model.pt two.txt --images faces",
        "two.txt:2:",
        "found 'b.jpg 1'",
        "expected a number that says, as the line before",
        "fix the line",
        file("two.txt", "a.jpg 0\nb.jpg 1\n"),
    ),
    Bad("verify model.pt none.bin", "none.bin:", "cannot be read", "expected a verification .bin", "check the path"),
    Bad("verify model.pt lfw.bin", "lfw.bin:", "4 pairs", "expected at least one per fold", "lower the 10 folds"),
    Bad(
        "verify model.pt evil.bin",
        "evil.bin:",
        "asks for posix.system",
        "expected only bytes",
        "do not use this",
        hostile_pairs,
    ),
    Bad(
        "verify evil.pt lfw.bin --folds 2",
        "evil.pt:",
        "asks for posix.system",
        "expected a state dict",
        "take another file",
        hostile_weights,
    ),
    # faces
    Bad("align_faces none out", "none:", "no such file or", "expected a folder of", "check the path"),
    Bad("align_faces faces faces", "faces:", "lies in the folder of the photos", "expected another", "choose another"),
    Bad("align_faces faces faces/out", "faces/out:", "lies in the folder of the photos", "expected another", "choose"),
    Bad("align_faces empty out", "empty:", "holds no image", "expected a", "check the path", file("empty/a", "")),
    Bad("align_faces faces train.idx", "train.idx:", "is not a folder", "expected a folder", "choose another"),
    Bad("align_faces faces out --model nowhere", "nowhere", "no such file", "expected MTCNN's", "fetch_weights"),
    Bad("align_faces faces out --detector scrfd", "scrfd:", "needs an ONNX file", "such as", "give it with --model"),
    Bad("align_faces faces out --quality 101", "--quality", "101", "expected 1 to 100", "choose such a number"),
    Bad("align_faces faces out --size 5000", "--size", "5000", "expected at most 4096", "choose such a number"),
    Bad("align_faces faces out --min-face 0", "--min-face", "0.0", "expected at least 1", "choose such a number"),
    Bad(
        "align_faces faces out",
        "p0/0.png.jpg:",
        "the crop of two photos",
        "expected names",
        "rename one",
        lambda folder: (file("faces/p0/0.png", "")(folder), file("faces/p0/0.png.jpg", "")(folder)),
    ),
    Bad(
        "align_faces faces out --faces all",
        "p0/0.face1.jpg:",
        "the crop of two",
        "expected names",
        "rename one",
        file("faces/p0/0.face1.jpg", ""),
    ),
    Bad(
        "align_faces faces out",
        f"p0/{'n' * 240}.jpg:",
        "a crop's name",
        "expected at most 240 bytes",
        "rename",
        file(f"faces/p0/{'n' * 240}.jpg", ""),
    ),
    Bad(
        "align_faces faces out",
        "align.jsonl/0.jpg:",
        "would lie upon",
        "expected another name",
        "rename it",
        file("faces/align.jsonl/0.jpg", ""),
    ),
    Bad(
        "align_faces faces out --landmarks marks.jsonl",
        "marks.jsonl:1:",
        '"photo": "a"',
        "expected a line of an align.jsonl",
        "let align_faces.py write it",
        file("marks.jsonl", '{"photo": "a", "faces": [{"box": [1], "landmarks": [], "score": 1}]}\n'),
    ),
    Bad(
        "align_faces faces out --landmarks out/align.jsonl --overwrite",
        "out/align.jsonl:",
        "--overwrite removes it",
        "expected another file",
        "copy it",
        file("out/align.jsonl", ""),
    ),
    Bad("align_faces faces out", "out:", "is not empty", "expected a new folder", "choose another", file("out/a", "")),
    Bad(
        "align_faces faces out", "out:", "holds crops already", "a new OUT", "--overwrite", file("out/align.jsonl", "")
    ),
    Bad(
        "align_landmarks faces marks.txt out",
        "marks.txt:1:",
        "'p0/0.jpg 1 2 3'",
        "expected `path x1 y1",
        "fix the",
        file("marks.txt", "p0/0.jpg 1 2 3\n"),
    ),
    Bad(
        "crop_boxes faces boxes.csv out",
        "boxes.csv:1:",
        "columns NAME, X",
        "expected NAME_ID",
        "write them",
        file("boxes.csv", "NAME,X\n1,2\n"),
    ),
    Bad("crop_boxes none boxes.csv out", "none:", "is none", "expected a folder of photos", "check the paths"),
    Bad("crop_boxes empty boxes.csv out", "empty:", "holds nothing", "expected the photos", "check the path", empty),
    Bad("crop_boxes faces none.csv out", "none.csv:", "cannot be read", "expected a table", "check that it is one"),
    Bad("crop_boxes faces boxes.csv out", "boxes.csv:", "has no rows", "expected", "check", file("boxes.csv", HEADER)),
    Bad(
        "crop_boxes faces boxes.csv out",
        "boxes.csv:2:",
        "'../p'",
        "expected a path below it",
        "fix the line",
        file("boxes.csv", f"{HEADER}../p,1,2,3,4\n"),
    ),
    Bad(
        "crop_boxes faces boxes.csv out --margin inf",
        "--margin",
        "inf",
        "expected 0 to 100",
        "choose such a number",
        file("boxes.csv", f"{HEADER}p0/0,1,2,3,4\n"),
    ),
    Bad(
        "crop_boxes faces boxes.csv out",
        "out:",
        "is not empty",
        "expected a new folder",
        "choose another",
        lambda folder: (file("boxes.csv", f"{HEADER}p0/0,1,2,3,4\n")(folder), file("out/a", "")(folder)),
    ),
    Bad("embed_faces none out --model model.pt", "none:", "no such file", "expected a packed", "check the path"),
    Bad("embed_faces empty out --model model.pt", "empty:", "holds no image", "expected", "check the path", empty),
    Bad(
        "embed_faces bad out --model model.pt",
        "bad/a.jpg:",
        "begins with b'no pictu'",
        "expected a JPEG",
        "remove or",
        file("bad/a.jpg", "no picture"),
    ),
    Bad(
        "embed_faces one out --model model.pt",
        "model.pt:",
        "64 x 64 pixels",
        "expected the size it was trained on",
        "align the faces to that",
        file("one/a.jpg", encode_jpeg(np.zeros((64, 64, 3), np.uint8))),
    ),
    Bad(
        "embed_faces train.rec /proc/none/x --model model.pt",
        "/proc/none/x:",
        "No such",
        "writable",
        "choose a writable",
    ),
    Bad(
        "embed_faces train.rec old --model none.pt --overwrite",
        "none.pt:",
        "not found",
        "expected a run",
        "check the",
        file("old/embeddings.json", "{}"),
    ),
    Bad("embed_faces faces out --model none.pt", "none.pt:", "not found", "expected a run folder", "check the path"),
    Bad(
        "cluster_faces faces out.lst --threshold 0.5",
        "faces:",
        "holds no embeddings",
        "expected the output of embed_faces.py",
        "run it to its end",
    ),
    Bad(
        "clean_faces faces out --embeddings none",
        "none:",
        "holds no embeddings",
        "expected the output of embed_faces.py",
        "run it to its end",
    ),
    Bad(
        "review_faces faces none out",
        "none/decisions.jsonl:",
        "cannot be read",
        "expected the decisions of clean_faces.py",
        "check the folder",
    ),
    Bad("make_faces faces --identities 2", "faces:", "exists already", "expected a new path", "pass --overwrite"),
    # plans and other programs' files
    Bad("plan --memory-gib 0.001", "--memory-gib 0.001:", "no identity fits", "needs 4.8 GiB", "raise it"),
    Bad(
        "from_arcface_torch old.py new.yaml",
        "old.py:1:",
        "found 'import os'",
        "expected config.name = value",
        "fix the line",
        file("old.py", "import os\nos.system('touch ran')\n"),
    ),
    Bad(
        "from_arcface_torch old.py new.yaml",
        "old.py:2:",
        "config.lrr",
        "unknown key",
        "did you mean 'lr'",
        file("old.py", "config = edict()\nconfig.lrr = 1\n"),
    ),
    Bad(
        "import_arcface_torch old new --config mine",
        "old/checkpoint_gpu_1.pt:",
        "not found",
        "expected one file",
        "copy it from the node",
        shard_missing,
    ),
]

TINY = {
    "device": "cpu",
    "data.image_size": "32",
    "data.num_workers": "0",
    "backbone.network": "tiny",
    "backbone.embedding_size": "16",
    "train.batch_size": "2",
    "train.precision": "off",
    "log.tensorboard": "false",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder every case starts from."""
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    for person in range(3):
        (folder / "faces" / f"p{person}").mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            (folder / "faces" / f"p{person}" / f"{number}.jpg").write_bytes(encode_jpeg(pixels))
    assert pack_rec([str(folder / "faces"), str(folder / "train"), "--quiet"]) == 0
    save_backbone(build_backbone("tiny", embedding_size=16, image_size=32), folder / "model.pt")
    write_pairs(folder / "lfw.bin", [(folder / "faces" / "p0" / "0.jpg").read_bytes()] * 8, [True, False] * 2)
    (folder / "mine.yaml").write_text(f"base: {ROOT}/configs/base.yaml\ndata: {{rec: train.rec}}\n")
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a case its own copy, and the log files of a run back to nobody."""
    copy = tmp_path / "case"
    shutil.copytree(good, copy)
    monkeypatch.chdir(copy)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield copy
    torch.set_num_threads(threads)
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, LogFile):
            logging.getLogger().removeHandler(handler)
            handler.close()


def arguments(line: str) -> tuple[str, list[str]]:
    """Return the command's name and its arguments; TINY stands for the keys of a small run, unless they are given."""
    name, *words = line.split()
    if "TINY" in words:
        own = dict(word.split("=", 1) for word in words if "=" in word)
        words = ["mine", *(f"{key}={value}" for key, value in {**TINY, **own}.items())]
    return name, words


def content(folder: Path) -> dict[str, bytes]:
    """Return every file and folder below, but for a run's logs and the folders they are in."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.name not in LOGS and not (path.is_dir() and "work_dirs" in path.parts)
    }


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: f"{bad.line} - {bad.found}")
def test_a_bad_input_is_one_line_and_status_1(bad: Bad, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad.damage(folder)
    before = content(folder)
    name, words = arguments(bad.line)
    main = importlib.import_module(MODULES.get(name, f"recognition.commands.{name}")).main
    assert main([*words, "--quiet"]) == 1
    err = capfd.readouterr().err
    (line,) = err.splitlines()
    assert line.startswith(f"{name}: error: ")
    assert "Traceback" not in err
    assert line.isprintable()
    answer = line.removeprefix(f"{name}: error: ")
    for part in (bad.place, bad.found, bad.expected, bad.advice):
        assert part and part in answer, part
    assert answer.index(bad.place) <= answer.index(bad.found), "where comes before what"
    # A training that ends leaves the checkpoint it was writing, under a name that no reader looks at, and weights of
    # the epochs before.
    of_run = ("/.step_", "work_dirs/mine/model.")
    left = {path: data for path, data in content(folder).items() if not any(part in path for part in of_run)}
    assert left == before, "something was written"


def test_the_table_covers_every_command() -> None:
    covered = {MODULES.get(name, name).rpartition(".")[2] for name in (bad.line.split()[0] for bad in TABLE)}
    assert set(commands()) - {"fetch_weights"} <= covered
    assert len(TABLE) >= 40
