"""Measure the detectors on real photos: faces found, landmark error, false faces, speed.

    OMP_NUM_THREADS=1 python benchmarks/detection.py DATA --every 1

DATA holds lfw/images, lfw/landmarks5.txt (in 250-pixel coordinates, the photos are 150) and multiface/dlib with its
box files. One thread. A face counts as the central one when its box holds the middle of the photo; landmark errors
are the mean over five points in units of the published eye distance. Speed is per second of processor time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import cv2
import numpy as np
import torch

from recognition.cli import make_parser, positive_int, run_command
from recognition.console import progress
from recognition.data.photos import decode_photo
from recognition.detection.detectors import DETECTORS, build_detector
from recognition.detection.faces import Detector, iou

LANDMARK_SCALE = 0.6
OVERLAP = 0.4
SIDES = ("left", "top", "width", "height")
BOX_FILES = ("training.xml", "testing.xml")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, and return the exit status."""
    parser = make_parser("detection", __doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--detector", choices=DETECTORS, action="append", help="default: mtcnn and dlib")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--every", type=positive_int, default=10, metavar="N", help="take every N-th LFW photo")
    parser.add_argument("--json", action="store_true")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in args.detector or ["mtcnn", "dlib"]:
        detector = build_detector(name, model=args.model)
        result = {"detector": name, **measure_lfw(detector, args.data / "lfw", args.every, quiet=args.quiet)}
        result |= measure_boxes(detector, args.data / "multiface" / "dlib")
        print(json.dumps(result) if args.json else "\n".join(f"{key:24} {value}" for key, value in result.items()))


def measure_lfw(detector: Detector, folder: Path, every: int, *, quiet: bool) -> dict[str, Any]:
    """Return how many central faces are found, how well their landmarks lie, and photos per second of CPU."""
    lines = sorted((folder / "landmarks5.txt").read_text(encoding="utf-8").splitlines())[::every]
    errors, seconds = [], 0.0
    for line in progress(lines, total=len(lines), unit="photo", label="lfw", quiet=quiet):
        name, *numbers = line.split("\t")
        rgb = _read(folder / "images" / name)
        start = time.process_time()
        faces = detector.detect(rgb)
        seconds += time.process_time() - start
        middle = np.array([rgb.shape[1], rgb.shape[0]]) / 2
        holds = ((faces.boxes[:, :2] < middle) & (middle < faces.boxes[:, 2:])).all(1)
        if not holds.any():
            continue
        published = np.array(numbers, float).reshape(5, 2) * LANDMARK_SCALE
        distance = np.linalg.norm(faces.landmarks[holds][0] - published, axis=1).mean()
        errors.append(distance / np.linalg.norm(published[0] - published[1]))
    return {
        "photos": len(lines),
        "central_faces_found": round(len(errors) / len(lines), 5),
        "landmark_error_median": round(float(np.median(errors)), 4),
        "landmark_error_p95": round(float(np.percentile(errors, 95)), 4),
        "photos_per_cpu_s": round(len(lines) / seconds, 1),
    }


def measure_boxes(detector: Detector, folder: Path) -> dict[str, Any]:
    """Return recall and false faces over the photos with drawn boxes, and the faces found in a photo of dogs."""
    num_boxes = num_found = num_false = 0
    for name in BOX_FILES:
        for image in ElementTree.parse(folder / name).getroot().iter("image"):
            drawn = np.array([[float(box.get(key, 0)) for key in SIDES] for box in image.iter("box")])
            drawn[:, 2:] += drawn[:, :2]
            faces = detector.detect(_read(folder / str(image.get("file"))))
            found: set[int] = set()
            for box in faces.boxes:
                overlaps = iou(box, drawn)
                overlaps[list(found)] = 0
                best = int(overlaps.argmax())
                if overlaps[best] >= OVERLAP:
                    found.add(best)
                else:
                    num_false += 1
            num_boxes, num_found = num_boxes + len(drawn), num_found + len(found)
    return {
        "boxes": num_boxes,
        "recall": round(num_found / num_boxes, 4),
        "false_faces": num_false,
        "faces_among_dogs": len(detector.detect(_read(folder / "dogs.jpg"))),
    }


def _read(path: Path) -> np.ndarray:
    return decode_photo(path.read_bytes(), place=str(path))


if __name__ == "__main__":
    sys.exit(main())
