"""Measure the detectors on real photos: faces found, landmark error, false faces, speed.

    OMP_NUM_THREADS=1 python benchmarks/detection.py DATA --every 1
    OMP_NUM_THREADS=1 python benchmarks/detection.py DATA --looks

DATA holds lfw/images, lfw/landmarks5.txt (in 250-pixel coordinates, the photos are 150) and multiface/dlib with its
box files. One thread. A face counts as the central one when its box holds the middle of the photo; landmark errors
are the mean over five points in units of the published eye distance. Speed is per second of processor time.

The published landmarks are one look of an MTCNN at the photos in their original size. --looks asks how far one look
errs there: faces of DATA/multiface that are large enough are brought to the size of LFW's, and one look at each is
compared with the mean of many looks, at 250 pixels and at 150.
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
from recognition.detection.detectors import DETECTORS, build_detector
from recognition.detection.faces import Detector, iou
from recognition.detection.mtcnn import Mtcnn
from recognition.detection.weights import find_mtcnn
from recognition.images.codec import encode_jpeg
from recognition.images.photos import decode_photo

LANDMARK_SCALE = 0.6
OVERLAP = 0.4
SIDES = ("left", "top", "width", "height")
BOX_FILES = ("training.xml", "testing.xml")
ORIGINAL_PX, PHOTO_PX = 250, 150  # sides of LFW's photos, as published and here
EYES_PX = (38.0, 45.0)  # between the eyes in most of LFW's originals: from the tenth to the ninetieth in a hundred
PLACES = 8  # sizes and positions in which a large face is looked at


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, and return the exit status."""
    parser = make_parser("detection", __doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--detector", choices=tuple(DETECTORS), action="append", help="default: mtcnn and dlib")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--every", type=positive_int, default=10, metavar="N", help="take every N-th LFW photo")
    parser.add_argument("--looks", action="store_true", help="measure how far one look of mtcnn errs, and nothing else")
    parser.add_argument("--json", action="store_true")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.looks:
        _show(measure_looks(find_mtcnn(args.model), args.data / "multiface"), as_json=args.json)
        return
    for name in args.detector or ["mtcnn", "dlib"]:
        detector = build_detector(name, model=args.model)
        result = {"detector": name, **measure_lfw(detector, args.data / "lfw", args.every, quiet=args.quiet)}
        result |= measure_boxes(detector, args.data / "multiface" / "dlib")
        _show(result, as_json=args.json)


def measure_lfw(detector: Detector, folder: Path, every: int, *, quiet: bool) -> dict[str, Any]:
    """Return how many central faces are found, how exact their landmarks are, and photos per second of CPU."""
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


def measure_looks(weights: Path, folder: Path) -> dict[str, Any]:
    """Return how far one look lies from the mean of many, and the means of two sizes from each other.

    Median and 95th percentile of the mean over five points, by the eye distance.
    """
    one, many = Mtcnn(weights, look_again=False), Mtcnn(weights)
    generator = np.random.default_rng(0)
    faces, found = 0, []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png")):
        photo = _read(path)
        large = many.detect(photo)
        for points in large.landmarks[_eye_distance(large.landmarks) > EYES_PX[1]]:
            views = [_like_lfw(photo, points, generator) for _ in range(PLACES)]
            looks = [
                [_central(detector, view, side) for detector in (one, many) for side in (ORIGINAL_PX, PHOTO_PX)]
                for view in views
            ]
            found += [look for look in looks if all(points is not None for points in look)]
            faces += 1
    looked = np.array(found)  # [n, 4, 5, 2]
    eyes = _eye_distance(looked[:, 2])
    errors = {
        "one_look_at_250": (0, 2),
        "one_look_at_150": (1, 3),
        "mean_at_150_from_mean_at_250": (3, 2),
        "mean_at_150_from_one_look_at_250": (3, 0),
    }
    result: dict[str, Any] = {"faces": faces, "looks": len(looked)}
    for name, (a, b) in errors.items():
        distances = np.linalg.norm(looked[:, a] - looked[:, b], axis=2).mean(1) / eyes
        result[name] = [round(float(np.percentile(distances, q)), 4) for q in (50, 95)]
    return result


def _like_lfw(photo: np.ndarray, landmarks: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a face cut out and reduced to the size of LFW's originals, a little off the middle, through a JPEG."""
    scale = generator.uniform(*EYES_PX) / float(_eye_distance(landmarks))
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    center = np.round(landmarks.mean(0) * scale + generator.uniform(-8, 8, 2)) - ORIGINAL_PX // 2
    matrix = np.array([[1.0, 0.0, -center[0]], [0.0, 1.0, -center[1]]])
    return decode_photo(encode_jpeg(cv2.warpAffine(small, matrix, (ORIGINAL_PX, ORIGINAL_PX)), 95), place="face")


def _central(detector: Detector, picture: np.ndarray, side: int) -> np.ndarray | None:
    """Return the landmarks [5, 2] of the face in the middle, seen at `side` pixels, in pixels of the picture."""
    if side < len(picture):
        picture, scale = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), len(picture) / side
    else:
        scale = 1.0
    faces = detector.detect(picture)
    holds = ((faces.boxes[:, :2] < side / 2) & (side / 2 < faces.boxes[:, 2:])).all(1)
    return (faces.landmarks[holds][0] + 0.5) * scale - 0.5 if holds.any() else None


def _eye_distance(landmarks: np.ndarray) -> np.ndarray:
    return np.linalg.norm(landmarks[..., 0, :] - landmarks[..., 1, :], axis=-1)


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    print(json.dumps(result) if as_json else "\n".join(f"{key:34} {value}" for key, value in result.items()))


def _read(path: Path) -> np.ndarray:
    return decode_photo(path.read_bytes(), place=str(path))


if __name__ == "__main__":
    sys.exit(main())
