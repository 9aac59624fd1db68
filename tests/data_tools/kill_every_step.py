"""Kill a command at every step it takes on the disk, run it again, and compare what is left with an undisturbed run.

    python tests/data_tools/kill_every_step.py align FOLDER

A step is a file opened to be written, a rename, a removal, a folder made or removed, seen by Python's audit hooks below
OUT; the process gets SIGKILL just before it. The command runs again until it ends; after every third kill that run is
killed as well, at a step of its own. Detector, network and drawing are fakes that take no time; all else is real.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import cv2
import numpy as np

from data_tools import align_faces, clean_faces, crop_boxes, embed_faces
from recognition import embedders
from recognition.cleaning import clean as cleaning
from recognition.detection.alignment import template
from recognition.detection.faces import Faces
from tests.recognition.cleaning.people import people, write_set

EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
MOST_STEPS = 2000
_WRITES = os.O_WRONLY | os.O_RDWR
Main = Callable[[Sequence[str]], int]


class CentralFace:
    """A detector that takes the middle of every photo for a face."""

    def detect(self, rgb: np.ndarray) -> Faces:
        """Return one face."""
        height, width = rgb.shape[:2]
        box = np.array([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]], np.float32)
        landmarks = (template(50)[None] + [width / 2 - 25, height / 2 - 25]).astype(np.float32)
        return Faces(box, landmarks, np.ones(1, np.float32))


class Colours:
    """An embedder of three numbers a face."""

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return the mean colours, float32 [n, 3]."""
        return images_rgb.mean((1, 2)).astype(np.float32) + 1


@dataclass(frozen=True)
class Killer:
    """An audit hook that ends the process before its step number `at` below `root`; 0 lets it live."""

    root: str
    at: int
    seen: list[str]

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Count the step."""
        if not self._is_step(event, args):
            return
        self.seen.append(event)
        if len(self.seen) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_step(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "open":
            return isinstance(args[2], int) and bool(args[2] & _WRITES) and str(args[0]).startswith(self.root)
        # What shutil.rmtree removes has a name within a folder that is open.
        within_folder = event in ("os.remove", "os.rmdir") and args[-1] != -1
        return event in EVENTS and (within_folder or str(args[0]).startswith(self.root))


def make_photos(folder: Path) -> None:
    """Write five photos of two people, one photo cut off."""
    generator = np.random.default_rng(0)
    for name in ("a b/1.jpg", "a b/2.png", "ü'\"/1.jpg", "ü'\"/2.jpg", "ü'\"/..3.jpg"):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = generator.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        encoded = cv2.imencode(path.suffix, cv2.resize(small, (90, 100), interpolation=cv2.INTER_CUBIC))[1].tobytes()
        path.write_bytes(encoded[: len(encoded) // 2] if name.endswith("2.jpg") else encoded)


def align(folder: Path) -> tuple[Main, list[str]]:
    """Return align_faces.py with a detector that needs no weights."""
    make_photos(folder)
    align_faces.build_detector = lambda *args, **kwargs: CentralFace()  # type: ignore[assignment]
    return align_faces.main, [str(folder / "photos"), str(folder / "out"), "--detector", "dlib", "--workers", "1"]


def crop(folder: Path) -> tuple[Main, list[str]]:
    """Return crop_boxes.py with a table of boxes."""
    make_photos(folder)
    table = folder / "boxes.csv"
    table.write_text("NAME_ID,X,Y,W,H\na b/1,9,9,50,60\nü'\"/1,1,1,70,60\nü'\"/2,1,1,70,60\n", encoding="utf-8")
    return crop_boxes.main, [str(folder / "photos"), str(table), str(folder / "out"), "--workers", "1"]


def embed(folder: Path) -> tuple[Main, list[str]]:
    """Return embed_faces.py on three blocks of tiny faces."""
    (folder / "faces" / "a").mkdir(parents=True)
    for i in range(150):
        cv2.imwrite(str(folder / "faces" / "a" / f"{i:03}.jpg"), np.full((8, 8, 3), i, np.uint8))
    embedders.load_embedder = lambda *args, **kwargs: Colours()  # type: ignore[assignment]
    return embed_faces.main, [str(folder / "faces"), str(folder / "out"), "--model", "dlib", "--device", "cpu"]


def clean(folder: Path) -> tuple[Main, list[str]]:
    """Return clean_faces.py on a small set."""
    faces, embedded = write_set(folder, people({f"p{i}": 6 for i in range(12)}))
    cleaning.can_draw = lambda: True
    cleaning.draw_scores = lambda *args: b"picture"
    return clean_faces.main, [str(faces), str(folder / "out"), "--embeddings", str(embedded)]


COMMANDS: dict[str, Callable[[Path], tuple[Main, list[str]]]] = {
    "align": align, "crop": crop, "embed": embed, "clean": clean
}  # fmt: skip


def kill_every_step(name: str, folder: Path) -> dict[str, Any]:
    """Return the number of kills, and of what came out wrong a line each."""
    main, argv = COMMANDS[name](folder)
    output = folder / "out"
    assert _run(main, argv, output) == 0
    whole = _tree(output)
    kills, wrong = 0, []
    for step in range(1, MOST_STEPS):
        shutil.rmtree(output)
        if _run(main, argv, output, kill_at=step) == 0:
            break
        kills += 1
        again = step % 3 == 0 and _run(main, argv, output, kill_at=1 + step % 7) != 0
        status = _run(main, argv, output)
        left = _tree(output)
        # A run killed behind its last step is done, and says so when it is started again.
        if left != whole or status not in (0, 1):
            differing = sorted(set(left) ^ set(whole)) or [path for path in whole if left[path] != whole[path]]
            wrong.append(f"step {step}{' and again' * again}: status {status}, differing {differing}")
    return {"kills": kills, "wrong": wrong}


def _run(main: Main, argv: Sequence[str], output: Path, *, kill_at: int = 0) -> int:
    """Run the command in a process of its own; return its exit status, -9 when it was killed."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            sys.addaudithook(Killer(str(output), kill_at, []))
            status = main([*argv, "--quiet"])
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


if __name__ == "__main__":
    print(json.dumps(kill_every_step(sys.argv[1], Path(sys.argv[2]))))
