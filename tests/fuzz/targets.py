"""What is fuzzed: every reader of a file that may come from anywhere, with small valid files to start from.

A target takes bytes, lays them out as the files its reader wants in a folder of its own, and reads everything a command
would. Only the project's own errors may come out, each of one line; tests/fuzz/run.py drives them, and
tests/fuzz/test_regressions.py repeats the inputs it found.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import pickle
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from recognition.cleaning.decision_file import parse_decision, read_decisions, render_decision
from recognition.cleaning.review import VERSION, read_review
from recognition.config.loader import dump_config, load_config
from recognition.config.schema import Config
from recognition.errors import CheckpointError, ConfigError, DataError
from recognition.feed.datasets import RecDataset
from recognition.feed.identity_map import read_identity_map
from recognition.formats import index_cache
from recognition.formats.class_names import read_class_names
from recognition.formats.digests import Digests
from recognition.formats.image_list import LstFile
from recognition.formats.image_streams import TarStream
from recognition.formats.pairs_bin import read_pairs, write_pairs
from recognition.formats.record_index import load_index
from recognition.formats.recordio import class_id, parse_header, read_record
from recognition.formats.records import ImageRecords, read_property
from recognition.formats.set_folder import check_shards
from recognition.formats.set_writer import ImageSetWriter
from recognition.images.codec import decode_rgb, encode_jpeg
from recognition.images.photos import decode_photo
from recognition.migrate.from_arcface_torch import convert, to_yaml
from recognition.migrate.python_config import read_python_config
from recognition.work.onnx_guard import check_onnx
from tests.helpers import onnx_bytes

SEPARATOR = b"\n|||\n"
SIDE = 16
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "mxnet"
EXPECTED = (DataError, ConfigError, CheckpointError)


@dataclass(frozen=True)
class Target:
    """A reader under attack; `share` is its part of all inputs."""

    read: Callable[[bytes, Path], None]
    seeds: Callable[[], list[bytes]]
    share: int
    max_len: int = 4096


@contextlib.contextmanager
def only_ours() -> Iterator[None]:
    """Let the project's own errors pass for an answer; anything else, or one of several lines, is a finding."""
    try:
        yield
    except EXPECTED as err:
        text = str(err)
        if isinstance(err.__cause__, MemoryError) or re.search(r"bad_alloc|[Ii]nsufficient memory|OutOfMemory", text):
            raise AssertionError(f"an allocation that was refused: {text[:200]!r}") from err
        if "\n" in text or not text.isprintable() or len(text) > 2000:
            raise AssertionError(f"a message of {len(text)} characters that is no plain line: {text[:200]!r}") from err


def join(*parts: bytes) -> bytes:
    """Return several files as one input."""
    return SEPARATOR.join(parts)


def split(data: bytes, count: int) -> list[bytes]:
    """Return the `count` files of an input; those that are missing are empty."""
    parts = data.split(SEPARATOR, count - 1)
    return parts + [b""] * (count - len(parts))


def _image_seeds() -> list[bytes]:
    ramp = np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3)
    kinds: list[tuple[str, np.ndarray, list[int]]] = [
        (".jpg", ramp, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".jpg", ramp[..., 0], []),
        (".webp", ramp, []),
        (".bmp", ramp, []),
        (".ppm", ramp, []),
        (".pgm", ramp[..., 0], []),
        (".png", ramp.astype(np.uint16) * 257, []),
    ]
    return pictures() + [cv2.imencode(suffix, image, flags)[1].tobytes() for suffix, image, flags in kinds]


def pictures() -> list[bytes]:
    """Return small pictures of the kinds that sets hold."""
    ramp = np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3)
    return [encode_jpeg(ramp, 50), cv2.imencode(".png", ramp)[1].tobytes()]


def _packed(layout: str) -> tuple[bytes, bytes, bytes]:
    rec, idx, lst = io.BytesIO(), io.BytesIO(), io.BytesIO()
    writer = ImageSetWriter(rec, idx, lst, layout=layout)  # type: ignore[arg-type]
    for number, image in enumerate([*pictures(), b"\x0a\x23\xd7\xce" * 3 + pictures()[0]]):
        writer.add(number // 2, image, f"{number}.jpg", (0.5, 7.0) if layout == "multilabel" else ())
    writer.finish()
    return rec.getvalue(), idx.getvalue(), lst.getvalue()


# --- packed sets


def read_record_frames(data: bytes, folder: Path) -> None:
    """Read one record after another, as a scan does, and its header."""
    with _descriptor(data) as descriptor:
        start = 0
        while start < len(data):
            payload, start = read_record(descriptor, start, len(data))
            class_id(parse_header(payload))


def read_packed_set(data: bytes, folder: Path) -> None:
    """Open a .rec with its .idx and property, or without when they are empty, and read everything in it."""
    idx, prop, rec = split(data, 3)
    _write(folder, "train.rec", rec)
    _write(folder, "train.idx", idx, unless_empty=True)
    _write(folder, "property", prop, unless_empty=True)
    dataset = RecDataset(folder / "train.rec", SIDE)
    records = ImageRecords(folder / "train.rec")
    for i in range(min(len(dataset), 6)):
        with only_ours():
            dataset[i]
        with only_ours():
            records.header(i)
    dataset.read_ahead([range(len(dataset))])
    dataset.labels()


def read_index(data: bytes, folder: Path) -> None:
    """Parse an .idx for a .rec of 64 KiB."""
    rec = folder / "train.rec"
    if not rec.exists():
        rec.write_bytes(bytes(65536))
    load_index(rec, _write(folder, "train.idx", data))


def read_index_cache(data: bytes, folder: Path) -> None:
    """Open a good set through a cache of its index that anybody may have written; STAMP stands for a right one."""
    rec, idx, _ = _INSIGHTFACE
    _write(folder, "train.rec", rec)
    idx_path = _write(folder, "train.idx", idx)
    os.utime(idx_path, ns=(0, 0))
    head, rows = split(data, 2)
    stamp = json.dumps([len(idx), 0, len(rec)]).encode()
    _write(folder, "train.idx.cache", head.replace(b"STAMP", stamp)[:4096].ljust(4096) + rows)
    before, index_cache.MIN_IDX_BYTES = index_cache.MIN_IDX_BYTES, 0
    try:
        records = ImageRecords(folder / "train.rec")
        for i in range(min(len(records), 6)):
            with only_ours():
                records.read(i)
        records.read_ahead([range(len(records))])
        records.labels()
    finally:
        index_cache.MIN_IDX_BYTES = before


def read_image(data: bytes, folder: Path) -> None:
    """Decode a picture of a set, and the same as a photo."""
    with only_ours():
        decode_rgb(data, place="picture")
    decode_photo(data, place="photo")


def read_pnm(data: bytes, folder: Path) -> None:
    """Decode a photo that begins as a PNM does, so that its header is what is tried."""
    decode_photo(b"P" + data, place="photo")


def _pnm_seeds() -> list[bytes]:
    return [
        b"5 #a\r4 #b\n4\n255\n" + bytes(16),
        b"6\n2 2\n65535\n" + bytes(24),
        b"2\n2 2\n9\n1 2 3 4\n",
        b"3 1 1 255 #c\n 1 2 3\n",
    ]


def _packed_seeds() -> list[bytes]:
    sets = [_packed(layout) for layout in ("insightface", "sequential", "multilabel")]
    seeds = [join(idx, b"2,16,16\n", rec) for rec, idx, _ in sets] + [join(b"", b"", sets[1][0])]
    golden = [(GOLDEN / f"split{suffix}").read_bytes() for suffix in (".idx", ".rec")]
    return [*seeds, join(golden[0], b"", golden[1])]


def _cache_seeds() -> list[bytes]:
    rec, idx, _ = _INSIGHTFACE
    rows = [[int(field) for field in line.split()] for line in idx.splitlines()]
    table = np.array([*rows, [0, len(rec)]], dtype="<i8").tobytes()
    layout = '{"name": "insightface", "images": [0, 3], "identities": [3, 5], "header": 5}'
    classes = '{"num_needed": 3, "num_used": 3, "num_likely": 3}'
    heads = [
        f'{{"format": 1, "stamp": STAMP, "layout": {found}, "classes": {classes}}}'.encode()
        for found in (layout, "null")
    ]
    return [join(head, table) for head in heads]


# --- lists


def read_lst(data: bytes, folder: Path) -> None:
    """Go through a .lst in both orders."""
    path = _write(folder, "train.lst", data)
    with only_ours():
        list(LstFile(path, folder, by_label=True))
    list(LstFile(path, folder, by_label=False))


def read_map(data: bytes, folder: Path) -> None:
    """Read a file of identities for two sets."""
    identities = read_identity_map(_write(folder, "map.txt", data), [5, 7])
    for set_number, label in ((0, 0), (1, 6)):
        with only_ours():
            identities(set_number, label, "picture")
    identities.whole(0, np.arange(5))


def _map_seeds() -> list[bytes]:
    whole = [b"%d\t%d\t%d\n" % (number, label, 2 * label) for number, size in ((0, 5), (1, 7)) for label in range(size)]
    return [b"".join(whole), b"0\t1\t7\n1 6 7\n\n"]


def read_pair_texts(data: bytes, folder: Path) -> None:
    """Read a list of verification pairs, and the pictures' places."""
    from recognition.commands.pack_bin import pack_bin
    from recognition.formats.pair_list import read_pair_list

    path = _write(folder, "pairs.txt", data)
    (folder / "ada").mkdir(exist_ok=True)
    _write(folder, "ada/ada_0001.jpg", pictures()[0])
    pack_bin(read_pair_list(path), folder, folder / "out.bin")


def read_published_pairs(data: bytes, folder: Path) -> None:
    """Lists of pairs in each layout that is one file."""
    from recognition.formats.pair_layouts import odd_pairs, read_published

    path = _write(folder, "list.txt", data)
    for layout in ("rfw", "lfw_csv", "bfw"):
        with contextlib.suppress(EXPECTED), only_ours():
            read_published(path, layout=layout)
    odd_pairs(read_published(path, layout="calfw"))


def read_matlab_file(data: bytes, folder: Path) -> None:
    from recognition.formats.matlab import read_matlab

    read_matlab(_write(folder, "label.mat", data))


def read_pairs_about(data: bytes, folder: Path) -> None:
    from recognition.formats.pairs_about import is_about, read_about

    is_about(_write(folder, "set.json", data))
    read_about(folder / "set.bin", sha256="0" * 64, num_pairs=2)


def read_scores_file(data: bytes, folder: Path) -> None:
    from recognition.verification.scores_file import read_scores

    read_scores(_write(folder, "scores.tsv", data))


def read_tar(data: bytes, folder: Path) -> None:
    """Go through a WebDataset shard."""
    stream = TarStream([_write(folder, "shard.tar", data)])
    with only_ours():
        len(stream)
    for _ in stream:
        pass


def _tar_seeds() -> list[bytes]:
    seeds = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
            for name, content in (("a/0.jpg", pictures()[0]), ("a/0.cls", b"3"), ("x" * 120 + ".json", b"{}")):
                if kind != tarfile.USTAR_FORMAT or len(name) < 100:
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        seeds.append(buffer.getvalue())
    return seeds


def read_shards_manifest(data: bytes, folder: Path) -> None:
    """Compare the shards in a folder with its manifest."""
    _write(folder, "shard-000000.tar", bytes(512))
    _write(folder, "manifest.json", data)
    check_shards(folder)


def read_digests(data: bytes, folder: Path) -> None:
    """Read the checksums of a set."""
    Digests(_write(folder, "train.crc", data)).problem(1, b"payload")


def read_names_of_classes(data: bytes, folder: Path) -> None:
    """Read the names of a set's people."""
    read_class_names(_write(folder, "train.names", data))


def read_property_file(data: bytes, folder: Path) -> None:
    """Read the number of classes and the size of a set."""
    read_property(_write(folder, "property", data))


# --- what tools write, and people change


def read_decision_lines(data: bytes, folder: Path) -> None:
    """Read the decisions of a cleaning; each must be written as it was read."""
    for decision in read_decisions(_write(folder, "decisions.jsonl", data)):
        assert parse_decision("again", render_decision(decision)) == decision


def _decision_seeds() -> list[bytes]:
    kept = {"picture": "ada/1.jpg", "identity": "ada", "decision": "keep", "to": None, "reason": "alone"}
    kept |= {"step": "small", "score": 0.5, "doubt": 0.25, "beside": []}
    moved = {**kept, "decision": "move", "to": "bea", "reason": "same", "step": "between", "beside": ["bea/2.jpg"]}
    again = {**kept, "decision": "drop", "reason": "near_duplicate", "twin": "ada/2.jpg", "risk": 0.5, "quality": 2.5}
    return [
        f"{json.dumps(kept)}\n{json.dumps(moved)}\n".encode(),
        json.dumps({**kept, "score": None}).encode(),
        json.dumps(again).encode(),
    ]


def read_review_file(data: bytes, folder: Path) -> None:
    """Read what the review page saves."""
    read_review(_write(folder, "review.json", data))


def _review_seeds() -> list[bytes]:
    verdicts = {"ada/1.jpg": {"decision": "keep", "to": None}, "bea/2.jpg": {"decision": "move", "to": "ada"}}
    verdicts |= {"cyd/3.jpg": {"decision": "move", "to": "Eve", "new": True, "face": 2}}  # type: ignore[dict-item]
    return [json.dumps({"version": VERSION, "decisions": verdicts}).encode()]


def read_boxes(data: bytes, folder: Path) -> None:
    """Read a table of boxes or landmarks."""
    from recognition.commands.crop_boxes import read_rows

    list(read_rows(_write(folder, "boxes.csv", data)))


def _box_seeds() -> list[bytes]:
    points = ",".join(f"P{point}{axis}" for point in range(1, 6) for axis in "XY")
    numbers = ",".join("1.5" for _ in range(10))
    return [b'NAME_ID,X,Y,W,H\n"a/1",4,5,40,30\n', f"NAME_ID,{points}\na/1,{numbers}\n".encode()]


def read_landmark_lines(data: bytes, folder: Path) -> None:
    """Read a file of landmarks."""
    from recognition.commands.align_landmarks import read_landmarks

    read_landmarks(_write(folder, "landmarks.txt", data))


def read_name_list(data: bytes, folder: Path) -> None:
    """Read a list that selects people by name."""
    from recognition.formats.name_list import read_names

    for spellings in read_names(_write(folder, "names.txt", data)):
        list(spellings)


def read_align_records(data: bytes, folder: Path) -> None:
    """Read an align.jsonl, whose landmarks another run takes."""
    from recognition.detection.align_records import find_origins, read_records

    list(read_records(_write(folder, "align.jsonl", data)))
    for origin in find_origins(folder, {"a/1.jpg"}).values():
        assert origin.size_text


def _align_seeds() -> list[bytes]:
    face = {"box": [1, 2, 30, 40], "score": 0.9, "landmarks": [[1, 2]] * 5, "crop": "a/1.jpg"}
    record = {"photo": "a/1.jpg", "status": "ok", "crc32": 7, "width": 60, "height": 50, "faces": [face]}
    return [json.dumps(record).encode() + b"\n"]


# --- programs


def read_onnx(data: bytes, folder: Path) -> None:
    """Look at an ONNX file as is done before it is opened."""
    check_onnx(_write(folder, "model.onnx", data))


def _onnx_seeds() -> list[bytes]:
    shape = np.array([1, 3, 4], np.int64)
    nodes = [("Conv", ["x", "w"], ["a"]), ("ConstantOfShape", ["s"], ["b"]), ("Expand", ["b", "s"], ["y"])]
    weights = {"w": np.ones((2, 3, 1, 1), np.float32), "s": shape}
    whole = onnx_bytes.onnx_model(nodes, inputs={"x": ["n", 3, 8, 8]}, outputs={"y": [1]}, weights=weights)
    field = onnx_bytes.field
    pads = field(1, field(4, b"Conv") + field(5, field(1, b"pads") + field(8, b"\1\1\1\1")))
    return [whole, onnx_bytes.number(1, 8) + field(7, pads)]


# --- pickles


def read_bin(data: bytes, folder: Path) -> None:
    """Read a verification pack as verify.py does, and decode a few of its pictures."""
    from recognition.verification.protocols import decode_images, open_pair_set

    path = _write(folder, "lfw.bin", data)
    with only_ours():
        pairs = read_pairs(path)
        decode_images(pairs.images[:4], image_size=SIDE, place="lfw.bin")
    open_pair_set(path, folds=2)


def _bin_seeds() -> list[bytes]:
    jpeg, png = pictures()
    images = [jpeg, png, jpeg, b"four"]
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    forms: list[tuple[object, object]] = [
        (images, [True, False]),
        (arrays, np.array([True, False])),
        (arrays, [np.bool_(True), np.int64(0)]),
    ]
    seeds = [pickle.dumps(form, protocol) for form in forms for protocol in (0, 2, 3, 4, 5)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.bin"
        write_pairs(path, images, [True, False])
        seeds.append(path.read_bytes())
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
    python_2 = b"\x80\x02]q\x01(U\x03one" + array
    return [*seeds, python_2, b"cos\nsystem\n(S'true'\ntR."]


# --- configs


def read_yaml(data: bytes, folder: Path) -> None:
    """Load a config; `base: base` finds a good one beside it. What loads must come back from its own dump."""
    _write(folder, "base.yaml", b"seed: 1\noptim: {lr: 0.2}\n")
    config = load_config(str(_write(folder, "mine.yaml", data)))
    again = load_config(str(_write(folder, "again.yaml", dump_config(config).encode())))
    assert again == config, "a dumped config reads differently"


def read_override(data: bytes, folder: Path) -> None:
    """Lay an override from a command line over a good config."""
    path = _write(folder, "base.yaml", b"seed: 1\n")
    texts = data.decode("utf-8", "surrogateescape").split("\n")
    load_config(str(path), texts[:4])


def read_python(data: bytes, folder: Path) -> None:
    """Convert a config of arcface_torch, and load what came out."""
    path = _write(folder, "old.py", data)
    converted = to_yaml(convert(read_python_config(path), "old.py"), path.name)
    load_config(str(_write(folder, "new.yaml", converted.encode())))


def _yaml_seeds() -> list[bytes]:
    root = Path(__file__).resolve().parents[2] / "configs"
    names = ("ms1mv3_r50.yaml", "wf42m_pfc02_r100.yaml", "demo.yaml")
    texts = [(root / name).read_bytes().replace(b"base: base.yaml", b"base: base") for name in names]
    tricks = [
        b"a: &a [1, 2]\nb: [*a, *a]\n",
        b"data: {rec: &x synthetic, num_classes: 5, num_image: 9}\n",
        b"head:\n  margins: [1.0, 0.5, 0.0]\n  scale: 64\n",
        b"optim: {lr: 5e-4, betas: [0.9, 0.99]}\n",
        b"validation:\n  val_targets: ['lfw', \"cfp_fp\"]\nlog: {wandb: ~}\n",
        b"--- !!python/name:os.system\n",
        b"%YAML 1.1\n---\noutput: |\n  two\n  lines\n...\n",
    ]
    return texts + tricks


def _python_seeds() -> list[bytes]:
    head = b"from easydict import EasyDict as edict\nconfig = edict()\n"
    return [
        head + b"config.margin_list = (1.0, 0.5, 0.0)\nconfig.network = 'r50'\nconfig.lr = 0.02 * 8 / 2 ** 2\n"
        b"config.val_targets = ['lfw', 'cfp_fp']\nconfig.fp16 = True\nconfig.resume = False\nconfig.output = None\n",
        head + b"batch = 128\nconfig.batch_size = batch\nconfig.momentum = -(-0.9)\nconfig.num_epoch = config.lr\n",
        head + b"x = (1, 2)\ny = (x, x)\nconfig.val_targets = y\nconfig.using_wandb = True\n",
    ]


# --- weights and checkpoints


def read_weights(data: bytes, folder: Path) -> None:
    """Read a .pt as a backbone's weights, and name the network it belongs to."""
    from recognition.backbones.matching import infer_architecture
    from recognition.backbones.weights import read_state_dict

    state = read_state_dict(_write(folder, "model.pt", data))
    with only_ours():
        infer_architecture(state, place="model.pt")


def read_model_file(data: bytes, folder: Path) -> None:
    """Read a model.safetensors whole: its tensors, its metadata, and whether they agree."""
    from recognition.backbones import weights

    path = _write(folder, "model.safetensors", data)
    weights.read_weights(path)
    with only_ours():
        weights.load_backbone(path)


def read_model_metadata(data: bytes, folder: Path) -> None:
    """Parse the JSON of a model; what is believed must be written as it was read."""
    from recognition.backbones.metadata import ModelMetadata

    found = ModelMetadata.from_json(data.decode("utf-8", "replace"), place="model.safetensors")
    assert ModelMetadata.from_json(found.to_json(), place="again") == found


def read_arcface_shard(data: bytes, folder: Path) -> None:
    """Read a checkpoint_gpu_0.pt of arcface_torch."""
    from recognition.migrate.arcface_checkpoint import check_shards, read_shard

    network, config = _small_network()
    path = _write(folder, "checkpoint_gpu_0.pt", data)
    check_shards([read_shard(path, network, config)], None)


def read_checkpoint(data: bytes, folder: Path) -> None:
    """Resume from a checkpoint, on its own number of ranks and on another.

    @B0@, @C0@, ... in the manifest stand for the right length and checksum of each file, and its own checksum is put in
    front of it: whoever writes a hostile checkpoint can do as much.
    """
    import torch

    from recognition.distributed.checkpoint import Checkpoint
    from recognition.distributed.world import World
    from recognition.training.resume import load_run
    from recognition.training.run_meta import OrderSettings
    from recognition.training.start import hold_global_batch

    path = folder / "step_00000007"
    path.mkdir(exist_ok=True)
    manifest, *files = split(data, 4)
    for number, (name, content) in enumerate(zip(_CHECKPOINT_FILES, files)):
        _write(path, name, content)
        manifest = manifest.replace(b"@B%d@" % number, b"%d" % len(content))
        manifest = manifest.replace(b"@C%d@" % number, b"%d" % zlib.crc32(content))
    _write(path, "manifest.json", b'{"sha256": "%s",\n' % hashlib.sha256(manifest).hexdigest().encode() + manifest)
    checkpoint = Checkpoint(path)
    for size in (1, 2):
        world = World(0, size, 0, torch.device("cpu"))
        checkpoint.verify(world)
        with only_ours():
            hold_global_batch(Config(), checkpoint, world)
        with only_ours():
            checkpoint.local(world)
    with only_ours():
        checkpoint.rows("centers", range(2))
    parts, scaler = _small_run()
    load_run(checkpoint, parts, scaler, order=OrderSettings(**_ORDER))


def read_embedding_folder(data: bytes, folder: Path) -> None:
    """Open the embeddings that embed_faces.py would have written."""
    from recognition.embedding.store import read_embeddings

    about, keys, vectors = split(data, 3)
    for name, content in (("embeddings.json", about), ("keys.jsonl", keys), ("embeddings.npy", vectors)):
        _write(folder, name, content)
    read_embeddings(folder)


def _weight_seeds() -> list[bytes]:
    import torch

    few = {"fc.weight": torch.ones(2, 3), "features.bias": torch.ones(3, dtype=torch.int64), "n": torch.tensor(7)}
    seeds = []
    for content, is_zip in ((few, True), (few, False), ({"state_dict": few}, True)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
        seeds.append(buffer.getvalue())
    return seeds


def _model_seeds() -> list[bytes]:
    from safetensors.torch import save

    described, text = _small_model()
    return [save(described, {"arcshard": text}), save({"fc.weight": described["layers.1.layers.1.weight"]})]


def _metadata_seeds() -> list[bytes]:
    return [_small_model()[1].encode()]


@functools.cache
def _small_model() -> tuple[dict[str, Any], str]:
    """Return a few tensors, and metadata with their fingerprint: nothing that a network would take."""
    import torch

    from recognition.backbones.architecture import Architecture
    from recognition.backbones.metadata import ModelMetadata, weights_fingerprint

    state = {"layers.1.layers.1.weight": torch.ones(2, 3), "n": torch.tensor(7)}
    about = ModelMetadata(
        Architecture("mbf", 8, 32),
        weights_fingerprint(state),
        dataset={"images": 3, "index": "8f0c"},
        config={"optim.lr": 0.1, "head.margins": [1, 0.5, 0]},
        metrics={"step": 2, "best": {"lfw": 0.5}},
    )
    return state, about.to_json()


def _shard_seeds() -> list[bytes]:
    import torch

    network, _ = _small_network()
    state = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in network.state_dict().items()}
    shapes = [parameter.shape for parameter in network.parameters()]
    count = len(shapes)
    moments = {i: {"momentum_buffer": torch.zeros(shape)} for i, shape in enumerate([*shapes, (3, 4)])}
    content = {
        "epoch": 1,
        "global_step": 5,
        "state_dict_backbone": state,
        "state_dict_softmax_fc": {"weight": torch.ones(3, 4)},
        "state_optimizer": {"state": moments, "param_groups": [{"params": list(range(count))}, {"params": [count]}]},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return [buffer.getvalue()]


_CHECKPOINT_FILES = ("replicated.safetensors", "rows_0.safetensors", "local_0.safetensors")
_ORDER = {"num_images": 9, "seed": 3}


@functools.cache
def _small_run():
    """Return the parts of a run that a checkpoint is read into, and its loss scale."""
    import torch
    from torch import nn

    from recognition.config.schema import OptimConfig
    from recognition.heads.margins import CurricularFace
    from recognition.heads.sharded_softmax import ShardedSoftmax
    from recognition.optim.groups import make_optimizer
    from recognition.training.build import Parts
    from recognition.training.scaler import LossScaler

    cpu = torch.device("cpu")
    backbone = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    head = ShardedSoftmax(2, 3, margin=CurricularFace())  # one that keeps something from batch to batch
    optimizer = head.optimizer(lr=0.1, backbone=make_optimizer(backbone.parameters(), OptimConfig(), decay_all=True))
    return Parts(backbone, backbone, head, 2, optimizer), LossScaler(cpu, enabled=True)


def _checkpoint_seeds() -> list[bytes]:
    from recognition.distributed.manifest import Manifest, render_manifest
    from recognition.distributed.tensor_file import FileFacts, write_tensor_file
    from recognition.training.resume import snapshot_run
    from recognition.training.run_meta import OrderSettings, RunMeta
    from recognition.training.state import TrainState

    parts, scaler = _small_run()
    state = TrainState(step=7, best={"lfw": 0.5}, unreported_sums={"loss": "nan"})
    snapshot = snapshot_run(
        parts, RunMeta(state, scaler.state(), "tiny", 128, OrderSettings(**_ORDER)), has_own_buffers=True
    )
    with tempfile.TemporaryDirectory() as folder:
        written = []
        for name, held in zip(_CHECKPOINT_FILES, (snapshot.replicated, snapshot.rows, snapshot.local)):
            tensors = {key: tensor.detach().contiguous() for key, tensor in held.items()}
            write_tensor_file(Path(folder) / name, tensors)
            written.append((Path(folder) / name).read_bytes())
    # Numbers that nothing else in the text has, to find them again.
    facts = {name: FileFacts(7_000_000 + i, 8_000_000 + i) for i, name in enumerate(_CHECKPOINT_FILES)}
    seeds = []
    for extra in ({}, {"global_batch": [[0] * 9]}, {"state": {"best": [1]}}):
        manifest = Manifest(7, 2, (range(2),), facts, {**snapshot.meta, **extra}, 0.5)
        text = render_manifest(manifest).split("\n", 1)[1]
        for i in range(3):
            text = text.replace(str(7_000_000 + i), f"@B{i}@").replace(str(8_000_000 + i), f"@C{i}@")
        seeds.append(join(text.encode(), *written))
    return seeds


def _embedding_seeds() -> list[bytes]:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((2, 3), np.float32))
    return [join(b'{"model": "dlib"}', b'["a/0.jpg", 0]\n["b/1.jpg", 1]\n', buffer.getvalue())]


def _small_network():
    from torch import nn

    base = Path(__file__).resolve().parents[2] / "configs" / "base.yaml"
    config = load_config(str(base), ["backbone.embedding_size=4", "head.update=autograd"])
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)), config


# --- helpers


def _write(folder: Path, name: str, content: bytes, *, unless_empty: bool = False) -> Path:
    path = folder / name
    if unless_empty and not content:
        path.unlink(missing_ok=True)
        return path
    path.write_bytes(content)
    return path


@contextlib.contextmanager
def _descriptor(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


def _matlab_seeds() -> list[bytes]:
    import scipy.io

    pair = np.zeros((2, 1), dtype=[("name1", "O"), ("name2", "O"), ("label", "O")])
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"splits": pair})
    return [buffer.getvalue()]


def _published_seeds() -> list[bytes]:
    return [
        b"A_B_0001.jpg 1\nA_B_0002.jpg 1\n" * 10 + b"A_B_0001.jpg 0\nC_D_0002.jpg 0\n" * 10,
        b"m.01\t1\t2\nm.01\t1\tm.02\t1\n" * 10,
        b"name,imagenum1,imagenum2,\n" + b"A B,1,2,\nA B,1,C D,1\n" * 10,
    ]


def _score_seeds() -> list[bytes]:
    return [b"0.5 1\n0.1 0\n" * 10, b"# score same fold\n" + b"0.5\t1\t1\n-1\t0\t2\n" * 5]


def _about_seeds() -> list[bytes]:
    held = {"arcshard_pairs": 1, "sha256": "0" * 64, "images": [0, 1, 0, 1], "people": ["a", "b"], "fold_sizes": [2]}
    return [json.dumps(held).encode()]


_INSIGHTFACE = _packed("insightface")

TARGETS: dict[str, Target] = {
    "rec_frames": Target(read_record_frames, lambda: [_packed(kind)[0] for kind in ("insightface", "multilabel")], 200),
    "rec": Target(read_packed_set, _packed_seeds, 100),
    "idx": Target(read_index, lambda: [_INSIGHTFACE[1], b"1 0\r\n\n 2\t 788 \r\n", b"5\t4\n3\t0\n"], 160),
    "idx_cache": Target(read_index_cache, _cache_seeds, 60),
    "images": Target(read_image, _image_seeds, 60),
    "lst": Target(
        read_lst, lambda: [_INSIGHTFACE[2], b"0\t3.000000\tada/0.jpg\n", b"1\tada/0.jpg\t3\n1\tbea/\xff.jpg\t4\n"], 120
    ),
    "identity_map": Target(read_map, _map_seeds, 60),
    "pair_list": Target(
        read_pair_texts, lambda: [b"ada/ada_0001.jpg ada/ada_0001.jpg 1\n", b"1\t1\nada\t1\t1\nada\t1\tada\t1\n"], 30
    ),
    "published_pairs": Target(read_published_pairs, _published_seeds, 40),
    "matlab": Target(read_matlab_file, _matlab_seeds, 40),
    "pairs_about": Target(read_pairs_about, _about_seeds, 40),
    "scores": Target(read_scores_file, _score_seeds, 40),
    "pnm": Target(read_pnm, _pnm_seeds, 60),
    "property": Target(read_property_file, lambda: [b"85742,112,112\n", b"\xef\xbb\xbf3, 8, 8"], 40, 256),
    "digests": Target(read_digests, lambda: [b"1\t00c0ffee\n2\tdeadbeef\n"], 40),
    "class_names": Target(read_names_of_classes, lambda: [b"Ann Lee\nBea\n", b"\xef\xbb\xbfX\r\n\r\nY"], 40),
    "shards_manifest": Target(
        read_shards_manifest, lambda: [b'{"format": 1, "identities": 1, "shards": {"shard-000000.tar": 512}}'], 40
    ),
    "decisions": Target(read_decision_lines, _decision_seeds, 40),
    "review": Target(read_review_file, _review_seeds, 40),
    "boxes": Target(read_boxes, _box_seeds, 40),
    "align_records": Target(read_align_records, _align_seeds, 40),
    "landmarks": Target(
        read_landmark_lines,
        lambda: [b"ada/1.jpg 1 2 3 4 5 6 7 8 9 10\n", b"ada/1.jpg\t1\t2\t3\t4\t5\t6\t7\t8\t9\t10"],
        40,
    ),
    "names": Target(read_name_list, lambda: [b"Ada_Lovelace\nbea/\n", b"10\t300\nAda\t1\t4\n", b"Ada_0001.jpg"], 40),
    "onnx": Target(read_onnx, _onnx_seeds, 80),
    "tar": Target(read_tar, _tar_seeds, 30, max_len=16384),
    "bin": Target(read_bin, _bin_seeds, 80),
    "yaml": Target(read_yaml, _yaml_seeds, 25, max_len=2048),
    "override": Target(read_override, lambda: [b"optim.lr=0.2\nhead.margins=[1, 0.5, 0]", b"data.rec=a: b#c"], 30, 256),
    "python_config": Target(read_python, _python_seeds, 25, max_len=2048),
    "checkpoint": Target(read_checkpoint, _checkpoint_seeds, 40),
    "weights": Target(read_weights, _weight_seeds, 10, max_len=16384),
    "model_file": Target(read_model_file, _model_seeds, 10),
    "model_metadata": Target(read_model_metadata, _metadata_seeds, 40, max_len=2048),
    "arcface_shard": Target(read_arcface_shard, _shard_seeds, 5, max_len=32768),
    "embeddings": Target(read_embedding_folder, _embedding_seeds, 5),
}


def attempt(name: str, data: bytes, folder: Path) -> bool:
    """Give one input to a target and return whether it was read, not refused; raises whatever is a finding."""
    was_read = False
    with only_ours():
        TARGETS[name].read(data, folder)
        was_read = True
    return was_read


def all_seeds(names: Sequence[str] = tuple(TARGETS)) -> list[tuple[str, bytes]]:
    """Return every target's small valid files."""
    return [(name, seed) for name in names for seed in TARGETS[name].seeds()]
