"""Damage JPEGs in many ways and count which are refused, and re-encode whole ones in many ways: none may be.

    python benchmarks/damaged_jpegs.py photos/lfw/images

Damage: cut at a quarter, half and nine tenths with and without an end mark, 300 zeros at the start, in the middle and
at the end of the scan, one flipped bit, 300 random bytes; as the files are, and re-encoded progressive, with restart
markers and with their own Huffman tables. "lost" counts files of which OpenCV's decoder warns of lost data on stderr,
or which it does not decode; each of them has to be refused. Whole: every photo, and a hundred re-encoded by OpenCV,
Pillow and, where they are installed, cjpeg and ffmpeg: progressive, CMYK, restart markers, thumbnails, a video after
them.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import cv2
import numpy as np

from recognition.cli import make_parser, positive_int, run_command
from recognition.errors import ConfigError, DataError
from recognition.images.codec import decode_rgb

END = b"\xff\xd9"
KINDS = {
    "as it is": None,
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart markers": (cv2.IMWRITE_JPEG_RST_INTERVAL, 8),
    "own tables": (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("damaged_jpegs", __doc__)
    parser.add_argument("photos", type=Path, help="folder with JPEGs below it")
    parser.add_argument("--damaged", type=positive_int, default=150, help="photos to damage (default 150)")
    parser.add_argument("--whole", type=positive_int, default=100, help="photos to re-encode (default 100)")
    return run_command(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    paths = sorted(args.photos.rglob("*.jpg"))
    if not paths:
        raise DataError(f"{args.photos}: holds no .jpg; expected photos; check the path")
    missed = 0
    for kind, flags in KINDS.items():
        missed += damage(kind, spread(paths, args.damaged), flags)
    refused = whole(paths, args.whole)
    if missed or refused:
        raise ConfigError(f"{missed} damaged files passed, {refused} whole ones refused; expected none; report this")


def damage(kind: str, paths: Sequence[Path], flags: tuple[int, ...] | None) -> int:
    """Print a line for each way of damaging; return how many passed of which the decoder warns of lost data."""
    refused: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    missed = 0
    rng = np.random.default_rng(0)
    for path in paths:
        encoded = path.read_bytes()
        if flags is not None:
            encoded = encode(decode_rgb(encoded, place=str(path)), flags)
        for way, damaged in ways(encoded, rng):
            is_refused, is_lost = is_damaged(damaged), loses_data(damaged)
            refused[way] += is_refused
            lost[way] += is_lost
            missed += is_lost and not is_refused
    for way in refused:
        sys.stdout.write(f"{kind:16} {way:24} refused {refused[way]} of {len(paths)}, decoder: lost {lost[way]}\n")
    return missed


def ways(encoded: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    begin = encoded.find(b"\xff\xda") + 14
    length = len(encoded) - 2 - begin
    for share, name in ((0.25, "a quarter"), (0.5, "half"), (0.9, "nine tenths")):
        cut = encoded[: int(len(encoded) * share)]
        yield f"cut at {name}", cut
        yield f"cut at {name}, end mark", cut + END
    for name, at in (("start", begin), ("middle", begin + length // 2 - 150), ("end", len(encoded) - 302)):
        yield f"300 zeros at the {name}", encoded[:at] + bytes(300) + encoded[at + 300 :]
    at = begin + int(length * 0.4)
    yield "300 random bytes", encoded[:at] + rng.bytes(300) + encoded[at + 300 :]
    flipped = bytearray(encoded)
    flipped[int(rng.integers(begin, len(encoded) - 2))] ^= 1 << int(rng.integers(8))
    yield "one flipped bit", bytes(flipped)


def is_damaged(encoded: bytes) -> bool:
    try:
        decode_rgb(encoded, place="")
    except DataError:
        return True
    return False


def loses_data(encoded: bytes) -> bool:
    """Return whether OpenCV's decoder fails, or its first warning, which goes to the process's stderr, is of a loss."""
    with tempfile.TemporaryFile() as stream:
        before = os.dup(2)
        os.dup2(stream.fileno(), 2)
        try:
            found = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
        finally:
            os.dup2(before, 2)
            os.close(before)
        stream.seek(0)
        warning = stream.read()
    return found is None or (b"Corrupt" in warning and b"extraneous" not in warning) or b"Premature" in warning


def whole(paths: Sequence[Path], number: int) -> int:
    """Print how many whole files of each kind are refused; return the sum."""
    tried: Counter[str] = Counter({"as it is": len(paths)})
    refused: Counter[str] = Counter({"as it is": sum(is_damaged(path.read_bytes()) for path in paths)})
    for path in spread(paths, number):
        for name, encoded in encoders(decode_rgb(path.read_bytes(), place=str(path))):
            tried[name] += 1
            refused[name] += is_damaged(encoded)
    for name, times in tried.items():
        sys.stdout.write(f"whole            {name:24} refused {refused[name]} of {times}\n")
    return refused.total()


def encoders(rgb: np.ndarray) -> Iterator[tuple[str, bytes]]:
    from PIL import Image

    for kind, flags in KINDS.items():
        yield f"OpenCV, {kind}", encode(rgb, flags or ())
    picture = Image.fromarray(rgb)
    options = {"plain": {}, "progressive": {"progressive": True}, "restart": {"restart_marker_rows": 1}}
    for name, option in options.items():
        yield f"Pillow, {name}", by_pillow(picture, option)
    yield "Pillow, CMYK", by_pillow(picture.convert("CMYK"), {})
    plain, thumbnail = by_pillow(picture, {}), by_pillow(picture.resize((64, 64)), {})
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\0" + thumbnail
    yield "Pillow, thumbnail", plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    yield "Pillow, video after it", plain + b"\0\0\0\x18ftypmp42" + np.random.default_rng(len(plain)).bytes(300_000)
    for stray in (b"\0", bytes(64), b"\x12\x34" * 20):
        yield "stray bytes at the end", plain[:-2] + stray + END
    ppm = encode(rgb, (), ".ppm")
    for name, command in commands().items():
        if shutil.which(command[0]):
            yield name, subprocess.run(command, input=ppm, capture_output=True, check=True).stdout


def commands() -> dict[str, list[str]]:
    kinds = {"plain": [], "progressive": ["-progressive"], "restart": ["-restart", "1"], "arithmetic": ["-arithmetic"]}
    found = {f"cjpeg, {name}": ["cjpeg", *flags] for name, flags in kinds.items()}
    read = ["ffmpeg", "-v", "error", "-f", "ppm_pipe", "-i", "-"]
    for name, flags in (("plain", []), ("own tables", ["-huffman", "optimal"]), ("4:4:4", ["-pix_fmt", "yuvj444p"])):
        found[f"ffmpeg, {name}"] = [*read, *flags, "-f", "image2pipe", "-c:v", "mjpeg", "-"]
    return found


def encode(rgb: np.ndarray, flags: Sequence[int], suffix: str = ".jpg") -> bytes:
    return cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), list(flags))[1].tobytes()


def by_pillow(picture: object, options: dict[str, object]) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def spread(paths: Sequence[Path], number: int) -> Sequence[Path]:
    return paths[:: max(1, len(paths) // number)][:number]


if __name__ == "__main__":
    sys.exit(main())
