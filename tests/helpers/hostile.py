"""Files made to harm, by the name of the fuzzing target that reads them: at least three for every reader."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from recognition.formats.recordio import MAGIC
from tests.fuzz.targets import TARGETS, _checkpoint_seeds, _decision_seeds, _review_seeds, join, split
from tests.helpers.onnx_bytes import field, number, onnx_model

Maker = Callable[[], bytes]
DEEP = b"[" * 200_000
LONG = b"7" * 20_000_000
MANY_DIGITS = b"9" * 100_000


class _Runs:
    """Pickles to a call of os.system."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("exit 1",)


def _part(cflag: int, length: int) -> bytes:
    return struct.pack("<II", MAGIC, cflag << 29 | length)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, *others: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [_chunk(b"IHDR", head), *others, _chunk(b"IDAT", zlib.compress(bytes(1 << 20))), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _tar_head(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    head = bytearray(512)
    head[: len(name)], head[100:108], head[124 : 124 + len(size)], head[156:157] = name, b"0000644\0", size, kind
    head[257:265] = b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def _zip_of(content: Any, compression: int = zipfile.ZIP_STORED, name: str = "w/data.pkl") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(name, content if isinstance(content, bytes) else pickle.dumps(content, 2))
        archive.writestr("w/version", b"3\n")
    return buffer.getvalue()


def _tensors(header: bytes, content: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + content


def _seed_with(target: str, at: int, change: Callable[[bytes], bytes], count: int) -> bytes:
    """Return a valid input of several files, of which one is changed."""
    parts = split(TARGETS[target].seeds()[0], count)
    parts[at] = change(parts[at])
    return join(*parts)


def _checkpoint_with(at: int, value: float | None = None, *, odd: bool = False) -> bytes:
    """Return a checkpoint whose first tensor of a file is of an odd type, or holds `value`."""
    import torch
    from safetensors.torch import load, save

    def change(content: bytes) -> bytes:
        tensors = {name: tensor.clone() for name, tensor in load(content).items()}
        name = next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point() and tensor.numel())
        if odd:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        else:
            tensors[name].view(-1)[0] = value
        return save(tensors)

    return _seed_with("checkpoint", at, change, 4)


def _manifest_with(old: bytes, new: bytes) -> bytes:
    return join(*[_checkpoint_seeds()[0].split(b"\n|||\n")[0].replace(old, new), *split(_checkpoint_seeds()[0], 4)[1:]])


def _line_with(seed: bytes, **values: str) -> bytes:
    """Return a JSON object with values that JSON's own writer would not write."""
    content = json.loads(seed.splitlines()[0])
    text = json.dumps({**content, **{key: f"<{key}>" for key in values}})
    for key, value in values.items():
        text = text.replace(f'"<{key}>"', value)
    return text.encode()


def _onnx(*nodes: tuple[str, list[str], list[str]], **weights: np.ndarray) -> bytes:
    return onnx_model(nodes, inputs={"x": [1, 3, 8, 8]}, outputs={nodes[-1][2][0]: [1]}, weights=weights)


def _large() -> np.ndarray:
    return np.array([1 << 20, 1 << 20], np.int64)


def _npy(header: str) -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _embeddings(npy: bytes) -> bytes:
    return _seed_with("embeddings", 2, lambda _: npy, 3)


_IDX_ROW = b"1\t0\n"
HOSTILE: dict[str, dict[str, Maker]] = {
    "rec_frames": {
        "5 million empty parts": lambda: _part(1, 0) + _part(2, 0) * 5_000_000 + _part(3, 0),
        "a length beyond the file": lambda: _part(0, 2**29 - 1) + bytes(40),
        "4 billion labels": lambda: _part(0, 40) + struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0) + bytes(16),
        "parts without an end": lambda: _part(1, 4) + bytes(4) + (_part(2, 4) + bytes(4)) * 1000,
    },
    "rec": {
        "an index into nothing": lambda: _seed_with("rec", 0, lambda _: b"0\t9223372036854775804\n", 3),
        "no index and 20 MB of zeros": lambda: join(b"", b"", bytes(20_000_000)),
        "a property of letters": lambda: _seed_with("rec", 1, lambda _: b"\x1b[2J,112,112", 3),
        "a record cut off": lambda: _seed_with("rec", 2, lambda rec: rec[:40], 3),
    },
    "idx": {
        "one offset two million times": lambda: _IDX_ROW * 2_000_000,
        "a number of 100,000 digits": lambda: b"1\t" + MANY_DIGITS,
        "20 MB without an end of line": lambda: LONG,
        "an offset below zero": lambda: b"1\t-8\n",
    },
    "idx_cache": {
        "offsets far outside": lambda: _seed_with(
            "idx_cache", 1, lambda rows: rows.replace(bytes(8), b"\xff" * 7 + b"\x7f"), 2
        ),
        "a deep head": lambda: _seed_with("idx_cache", 0, lambda _: DEEP, 2),
        "a layout beyond it": lambda: _seed_with(
            "idx_cache", 0, lambda head: head.replace(b"[3, 5]", b"[3, 9999999]"), 2
        ),
    },
    "images": {
        "a PNG of four gigapixels": lambda: _png(65535, 65535),
        "an animation": lambda: _png(16, 16, _chunk(b"acTL", bytes(8))),
        "a JPEG without pixels": lambda: (
            b"\xff\xd8" + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(9) + b"\xff\xd9"
        ),
        "a BMP of four gigapixels": lambda: b"BM" + bytes(12) + struct.pack("<III", 40, 65535, 65535) + bytes(40),
        "100,000 chunks": lambda: _png(16, 16, *[_chunk(b"tEXt", b"a\0b")] * 100_000),
    },
    "pnm": {
        "a comment that ends with CR": lambda: b"5 #\r22000 22000\n255\n#\n4 4\n",
        "many gigapixels": lambda: b"6\n999999999 999999999\n255\n",
        "cut off": lambda: b"6\n2000 2000\n255\n" + bytes(100),
    },
    "property": {
        "two numbers": lambda: b"1,2",
        "100,000 digits": lambda: MANY_DIGITS + b",1,1",
        "control characters": lambda: b"\x1b[2J,\x1b]0;x\x07,1",
    },
    "lst": {
        "a way out": lambda: b"0\t1\t../../etc/passwd\n",
        "20 MB without an end of line": lambda: LONG,
        "an absolute path": lambda: b"0\t1\t/etc/passwd\n",
        "a NUL": lambda: b"0\t1\ta\0b\n",
    },
    "identity_map": {
        "a class id of 100,000 digits": lambda: b"0\t0\t" + MANY_DIGITS,
        "20 MB without an end of line": lambda: LONG,
        "a set that is not there": lambda: b"99999999\t0\t0\n",
    },
    "pair_list": {
        "a billion folds": lambda: b"999999999\t999999999\n",
        "a way out": lambda: b"../../etc/passwd ../x 1\n",
        "a number of 100,000 digits": lambda: b"1\t1\nada\t1\t" + MANY_DIGITS + b"\nada\t1\tada\t1\n",
        "NULs": lambda: bytes(1000),
    },
    "tar": {
        "a member of 2^62 bytes": lambda: (
            _tar_head(b"0.jpg", b"\x80" + bytes(3) + struct.pack(">Q", 2**62)) + bytes(1024)
        ),
        "a name of a gigabyte": lambda: _tar_head(b"x", b"10000000000", b"L") + bytes(1024),
        "a head of extensions that lie": lambda: (
            _tar_head(b"x", b"%011o" % 512, b"x") + b"99999999999 path=a\n".ljust(512, b"\0")
        ),
        "a label of letters": lambda: _tar_head(b"0.cls", b"%011o" % 4) + b"\x1b[2J".ljust(512, b"\0") + bytes(1024),
    },
    "bin": {
        "a call of os.system": lambda: pickle.dumps(([b"x"] * 2, _Runs()), 2),
        "a slot of two billion": lambda: b"\x80\x02]r\xff\xff\xff\x7f.",
        "ten million marks": lambda: b"(" * 10_000_000 + b".",
        "a bytearray of a gigabyte": lambda: b"cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R.",
    },
    "yaml": {
        "aliases that multiply": lambda: (
            b"a: &a [1,1,1,1,1,1,1,1,1]\n"
            + b"".join(b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % ((n, n) + (n - 1,) * 8) for n in range(98, 110))
        ),
        "a tag": lambda: b"optim: !!python/object/apply:os.system ['exit 1']",
        "200,000 levels": lambda: b"optim: " + DEEP,
        "half a megabyte": lambda: b"# " + b"x" * 500_000,
    },
    "override": {
        "200,000 levels": lambda: b"optim.lr=" + DEEP,
        "a tag": lambda: b"optim.lr=!!python/object/apply:os.system ['exit 1']",
        "control characters": lambda: b"data.rec=\x1b[2J\x00",
    },
    "python_config": {
        "an import": lambda: b"import os\nos.system('exit 1')",
        "a power tower": lambda: b"from easydict import EasyDict as edict\nconfig = edict()\nconfig.lr = 9**9**9**9",
        "20,000 brackets": lambda: b"config.lr = " + b"(" * 20_000,
        "a list times a billion": lambda: b"config.lr = [0] * 10**9",
    },
    "checkpoint": {
        "rows of NaN": lambda: _checkpoint_with(2, float("nan")),
        "infinite weights": lambda: _checkpoint_with(1, float("inf")),
        "another type": lambda: _checkpoint_with(2, odd=True),
        "an infinite score": lambda: _manifest_with(b'"score": 0.5', b'"score": 1e999'),
        "a key twice": lambda: _manifest_with(b'"score": 0.5', b'"score": 0.5, "step": 7, "step": 7'),
        "200,000 levels": lambda: _manifest_with(b'"score": 0.5', b'"score": ' + DEEP),
        "a tensor's name twice": lambda: _seed_with(
            "checkpoint",
            2,
            lambda content: _tensors(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":1}'),
            4,
        ),
    },
    "weights": {
        "a call of os.system": lambda: _zip_of(_Runs()),
        "a compressed archive": lambda: _zip_of({"a": bytes(30_000_000)}, zipfile.ZIP_DEFLATED),
        "a million dots": lambda: b"." * 1_000_000,
    },
    "model_file": {
        "a header of 2^60 bytes": lambda: struct.pack("<Q", 2**60) + b"{}",
        "a tensor of 2^60 bytes": lambda: _tensors(
            b'{"a":{"dtype":"F32","shape":[1073741824,268435456],"data_offsets":[0,1152921504606846976]}}'
        ),
        "200,000 levels": lambda: _tensors(b'{"a":' + DEEP),
    },
    "model_metadata": {
        "200,000 levels": lambda: DEEP,
        "NaN": lambda: _line_with(TARGETS["model_metadata"].seeds()[0], dataset='{"images": NaN}'),
        "two million characters": lambda: b'"' + b"x" * 2_000_000 + b'"',
        "a number of 100,000 digits": lambda: MANY_DIGITS,
    },
    "arcface_shard": {
        "a call of os.system": lambda: _zip_of(_Runs()),
        "a compressed archive": lambda: _zip_of({"a": bytes(30_000_000)}, zipfile.ZIP_DEFLATED),
        "an archive of no file": lambda: b"PK\5\6" + bytes(18),
    },
    "embeddings": {
        "objects": lambda: _embeddings(
            _npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }") + b"cos\nsystem\n."
        ),
        "a trillion rows": lambda: _embeddings(
            _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 512), }")
        ),
        "a key of 200,000 levels": lambda: _seed_with("embeddings", 1, lambda _: DEEP, 3),
        "labels below zero": lambda: _seed_with("embeddings", 1, lambda _: b'["a", -1]\n["b", 0]\n', 3),
    },
    "digests": {
        "20 MB without an end of line": lambda: LONG,
        "NULs": lambda: bytes(1000),
        "control characters": lambda: b"1\t\x1b[2J0000\n",
    },
    "class_names": {
        "20 MB without an end of line": lambda: LONG,
        "a name twice": lambda: b"Ann\nBea\nAnn\n",
        "control characters": lambda: b"Ann\n\x1b[2J\n",
        "a path": lambda: b"../../etc\n",
    },
    "shards_manifest": {
        "200,000 levels": lambda: DEEP,
        "a shard that is not there": lambda: b'{"shards": {"shard-000000.tar": 512, "shard-000001.tar": 9}}',
        "sizes of text": lambda: b'{"shards": {"shard-000000.tar": "\\u001b[2J"}}',
    },
    "decisions": {
        "an infinite score": lambda: _line_with(_decision_seeds()[0], score="1e999"),
        "a twin outside of the faces": lambda: _decision_seeds()[2].replace(b"ada/2.jpg", b"../2.jpg"),
        "a doubt of NaN": lambda: _line_with(_decision_seeds()[0], doubt="NaN"),
        "a key twice": lambda: _line_with(_decision_seeds()[0], score='0.5, "score": 0.7'),
        "200,000 levels": lambda: DEEP,
        "20 MB without an end of line": lambda: LONG,
    },
    "review": {
        "a key twice": lambda: _review_seeds()[0].replace(b'"version"', b'"version": 0, "version"'),
        "200,000 levels": lambda: DEEP,
        "a new person outside": lambda: _review_seeds()[0].replace(b'"Eve"', b'"../Eve"'),
        "a verdict that is none": lambda: (
            b'{"version": 1, "decisions": {"\\u001b[2J": {"decision": "rm", "to": null}}}'
        ),
    },
    "boxes": {
        "no column": lambda: b"\x1b[2J\n",
        "an infinite side": lambda: b"NAME_ID,X,Y,W,H\na/1,0,0,1e999,5\n",
        "20 MB in a field": lambda: b"NAME_ID,X,Y,W,H\n" + LONG,
        "a quote without an end": lambda: b'NAME_ID,X,Y,W,H\n"' + b"a\n" * 1_000_000,
    },
    "landmarks": {
        "infinite": lambda: b"a/1.jpg 1 2 3 4 5 6 7 8 9 1e999\n",
        "NaN": lambda: b"a/1.jpg 1 2 3 4 5 6 7 8 9 nan\n",
        "100,000 digits": lambda: b"a/1.jpg 1 2 3 4 5 6 7 8 9 " + MANY_DIGITS,
    },
    "names": {
        "NULs": lambda: bytes(1_000_000),
        "half a UTF-16 character": lambda: b"\xff\xfea",
        "control characters beside a NUL": lambda: b"\x1b[2J\0\n",
    },
    "published_pairs": {
        "NULs": lambda: bytes(1_000_000),
        "20 MB without an end of line": lambda: LONG,
        "one person and two at once": lambda: b"a.jpg 0\nb.jpg 1\n" * 10,
    },
    "matlab": {
        "version 7.3": lambda: b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512),
        "an element of 4 GB": lambda: TARGETS["matlab"].seeds()[0][:128] + b"\x0e\0\0\0\xff\xff\xff\xff",
        "an end in the middle": lambda: TARGETS["matlab"].seeds()[0][:-20],
    },
    "pairs_about": {
        "200,000 levels": lambda: DEEP,
        "another format": lambda: TARGETS["pairs_about"].seeds()[0].replace(b'pairs": 1', b'pairs": 9'),
        "folds of less than nothing": lambda: TARGETS["pairs_about"].seeds()[0].replace(b"[2]", b"[5, -3]"),
    },
    "scores": {
        "an infinite score": lambda: b"1e999 1\n0.5 0\n",
        "20 MB without an end of line": lambda: LONG,
        "NULs": lambda: bytes(1_000_000),
    },
    "align_records": {
        "a photo outside": lambda: TARGETS["align_records"].seeds()[0].replace(b"a/1.jpg", b"../1.jpg"),
        "an infinite landmark": lambda: TARGETS["align_records"].seeds()[0].replace(b"[1, 2]", b"[1, 1e999]"),
        "200,000 levels": lambda: DEEP,
        "20 MB without an end of line": lambda: LONG,
        "a key twice": lambda: TARGETS["align_records"].seeds()[0].replace(b'"status"', b'"photo": "b", "status"'),
    },
    "onnx": {
        "4 TB by 184 bytes": lambda: _onnx(("ConstantOfShape", ["s"], ["y"]), s=_large()),
        "a loop": lambda: _onnx(("Loop", ["x"], ["y"])),
        "weights elsewhere": lambda: number(1, 8) + field(7, field(5, number(2, 1) + field(13, field(1, b"location")))),
        "a tensor that claims": lambda: number(1, 8) + field(7, field(5, number(1, 2**40) + number(2, 1))),
        "300,000 fields": lambda: number(1, 8) + field(7, number(99, 1) * 300_000),
    },
}
