"""Runs under MXNet's own Python: reads and writes records with MXNet 1.9.1, told by JSON on stdin, answers by JSON.

Only the standard library, NumPy and MXNet are there; nothing of this project is imported.
"""

import base64
import json
import subprocess
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import mxnet
import numpy as np
from mxnet.recordio import IRHeader, MXIndexedRecordIO, pack, unpack


def read(prefix):
    """Return every record as [key, flag, labels, id, id2, image], the way its users read it."""
    reader = MXIndexedRecordIO(prefix + ".idx", prefix + ".rec", "r")
    rows = []
    for key in reader.keys:
        header, image = unpack(reader.read_idx(key))
        labels = np.atleast_1d(np.asarray(header.label, dtype=np.float64)).tolist()
        rows.append([key, int(header.flag), labels, int(header.id), int(header.id2), encode(image)])
    reader.close()
    return rows


def read_as_arcface_torch(prefix):
    """Return [label, image] as a reader does that trusts key 0: images are keys 1 to its first label, exclusive."""
    reader = MXIndexedRecordIO(prefix + ".idx", prefix + ".rec", "r")
    header, _ = unpack(reader.read_idx(0))
    keys = range(1, int(header.label[0])) if header.flag > 0 else list(reader.keys)
    rows = []
    for key in keys:
        header, image = unpack(reader.read_idx(key))
        pixels = mxnet.image.imdecode(image).asnumpy()
        label = header.label if isinstance(header.label, float) else float(np.atleast_1d(header.label)[0])
        rows.append([label, encode(image), list(pixels.shape), int(pixels.astype(np.int64).sum())])
    reader.close()
    return rows


def write(prefix, rows):
    """Write rows as `read` returns them, through pack and MXIndexedRecordIO."""
    writer = MXIndexedRecordIO(prefix + ".idx", prefix + ".rec", "w")
    for key, flag, labels, record_id, id2, image in rows:
        label = labels if flag else labels[0]
        writer.write_idx(key, pack(IRHeader(0, label, record_id, id2), decode(image)))
    writer.close()


def im2rec(prefix, root, *flags):
    tool = str(Path(mxnet.__file__).parent / "tools" / "im2rec.py")
    subprocess.run([sys.executable, tool, "--list", "--recursive", prefix, root], check=True, stdout=sys.stderr)
    command = [sys.executable, tool, "--pass-through", "--num-thread", "1", *flags, prefix, root]
    subprocess.run(command, check=True, stdout=sys.stderr)


def encode(content):
    return base64.b64encode(content).decode()


def decode(text):
    return base64.b64decode(text)


if __name__ == "__main__":
    request = json.load(sys.stdin)
    answer = globals()[request["do"]](*request["with"])
    json.dump(answer, sys.stdout)
