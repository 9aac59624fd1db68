"""Make the golden files of this folder with MXNet 1.9.1, the reference for .rec, .idx and .lst.

    python3.11 -m venv /tmp/mx && /tmp/mx/bin/pip install mxnet==1.9.1 "numpy<1.24" "opencv-python-headless<4.8"
    /tmp/mx/bin/python tests/golden/mxnet/make_golden.py

Only the pictures in faces/ are drawn here; every .rec and .idx comes out of MXNet's own writer, and the im2rec_* files
out of the im2rec.py that its wheel brings. expected.json says what went in.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import cv2
import mxnet
import numpy as np
from mxnet.recordio import IRHeader, MXIndexedRecordIO, pack

HERE = Path(__file__).resolve().parent
IM2REC = Path(mxnet.__file__).parent / "tools" / "im2rec.py"
MAGIC = struct.pack("<I", 0xCED7230A)

# People and their number of pictures.
FACES = {"ada": 3, "bea": 1, "cyd": 2}

SCALAR = [  # key, label, id, id2, image
    (0, 0.0, 0, 0, b""),
    (1, 1.0, 1, 0, b"a"),
    (2, 2.0, 7, 1, b"ab"),
    (7, 16777216.0, 2**40, 2**63, b"abc"),
    (4, 16777217.0, 0, 0, b"abcd"),  # float32 keeps 16777216
]
ARRAY = [  # key, labels, image
    (3, [5.0, 0.25, -1.5], b"jpeg"),
    (9, [0.0], b""),
    (1, [float(n) for n in range(9)], b"pixels"),
]
SPLIT = [
    b"abcd" + MAGIC + b"wxyz1",
    MAGIC,
    MAGIC + MAGIC + b"x",
    b"ab" + MAGIC + b"cd",  # not at a multiple of four: not cut
    b"abcd" + MAGIC,
    b"abcdef" + MAGIC + b"gh" + MAGIC + b"ijkl" + MAGIC[:3],
    b"",
    MAGIC[:2],
]


def main() -> None:
    draw_faces(HERE / "faces")
    write("scalar", [(key, pack(IRHeader(0, label, i, i2), image)) for key, label, i, i2, image in SCALAR])
    write("array", [(key, pack(IRHeader(0, labels, key, 0), image)) for key, labels, image in ARRAY])
    write("split", list(enumerate(SPLIT)))
    write_insightface("insightface")
    list_faces("im2rec_scalar")
    run_im2rec("im2rec_scalar")
    # im2rec lists one label per picture; a second one stands for side data such as mask parameters.
    lines = [line.split("\t") for line in (HERE / "im2rec_scalar.lst").read_text().splitlines()]
    labelled = [f"{index}\t{label}\t0.5\t{path}\n" for index, label, path in lines]
    (HERE / "im2rec_labels.lst").write_text("".join(labelled))
    run_im2rec("im2rec_labels", "--pack-label")
    expected = {
        "scalar": [[key, label, i, i2, image.hex()] for key, label, i, i2, image in SCALAR],
        "array": [[key, labels, image.hex()] for key, labels, image in ARRAY],
        "split": [payload.hex() for payload in SPLIT],
        "versions": {"mxnet": mxnet.__version__, "numpy": np.__version__},
    }
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def draw_faces(root: Path) -> None:
    """Draw 8 x 8 pictures; the last one is a PNG, which im2rec passes through like the others."""
    shutil.rmtree(root, ignore_errors=True)
    generator = np.random.RandomState(0)
    for name, number in FACES.items():
        (root / name).mkdir(parents=True)
        for k in range(number):
            suffix = "png" if (name, k) == ("cyd", 1) else "jpg"
            cv2.imwrite(str(root / name / f"{k}.{suffix}"), generator.randint(0, 256, (8, 8, 3)).astype(np.uint8))


def write(name: str, records: list[tuple[int, bytes]]) -> None:
    writer = MXIndexedRecordIO(str(HERE / f"{name}.idx"), str(HERE / f"{name}.rec"), "w")
    for key, payload in records:
        writer.write_idx(key, payload)
    writer.close()


def write_insightface(name: str) -> None:
    """Write the sequence of records that insightface's tools make: images from key 1, identities, key 0 at the end."""
    records = []
    spans = []
    for label, person in enumerate(sorted(FACES)):
        first = len(records) + 1
        for path in sorted((HERE / "faces" / person).iterdir()):
            key = len(records) + 1
            records.append((key, pack(IRHeader(0, label, key, 0), path.read_bytes())))
        spans.append((first, len(records) + 1))
    first = len(records) + 1
    records += [(first + k, pack(IRHeader(0, span, first + k, 0), b"")) for k, span in enumerate(spans)]
    records.append((0, pack(IRHeader(0, (first, first + len(spans)), 0, 1), b"")))
    write(name, records)


def list_faces(name: str) -> None:
    subprocess.run([sys.executable, IM2REC, "--list", "--recursive", str(HERE / name), str(HERE / "faces")], check=True)


def run_im2rec(name: str, *flags: str) -> None:
    prefix, root = str(HERE / name), str(HERE / "faces")
    subprocess.run([sys.executable, IM2REC, "--pass-through", "--num-thread", "1", *flags, prefix, root], check=True)


if __name__ == "__main__":
    main()
