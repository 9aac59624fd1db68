"""Kill a command before each thing it does to the disk, run it again, and compare what it leaves.

    python -m tests.helpers.kill_steps align

prints one JSON object: how many moments there were, what came out unlike an undisturbed run, or was read as a set and
was neither the old nor the new one, and how often it was refused. Python's audit events
name every open for writing, rename, removal and folder made, whoever asks for it, so that none is left out. Each run is
a process of its own: a fork of this one, which imports the command once and otherwise does nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from recognition.errors import DataError
from recognition.formats.image_streams import open_stream
from recognition.formats.model_facts import ModelFacts
from recognition.formats.pairs_bin import read_pairs
from recognition.formats.records import ImageRecords
from recognition.images.codec import encode_jpeg
from tests.helpers.trees import files_below

_EVENTS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"})
_TIMEOUT_S = 300

Tree = dict[str, bytes | None]
"""Every file below a folder, and every folder (None)."""


class FewFaces:
    """Stands in for a detector: as many faces as the picture's corner says, at places that do not depend on it."""

    def detect(self, rgb: np.ndarray) -> Any:
        from recognition.detection.alignment import ARCFACE_TEMPLATE
        from recognition.detection.faces import Faces

        num = int(rgb[0, 0, 0]) // 100
        landmarks = np.stack([ARCFACE_TEMPLATE * 0.4 + 8 * i for i in range(num)]) if num else np.zeros((0, 5, 2))
        boxes = np.array([[8 * i, 8 * i, 8 * i + 48 - i, 8 * i + 48 - i] for i in range(num)]).reshape(num, 4)
        return Faces(boxes.astype(np.float32), landmarks.astype(np.float32), np.full(num, 0.99, np.float32))


class FewNumbers:
    """Stands in for a network."""

    facts = ModelFacts("0" * 64)

    def embed(self, images_rgb: np.ndarray) -> np.ndarray:
        return images_rgb[:, :2, :2].reshape(len(images_rgb), -1).astype(np.float32)


def tree(folder: Path) -> Tree:
    """Return what is below `folder`."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def align(place: Path) -> list[list[str]]:
    """Make photos of none to two faces, one of them no photo; two commands, the second over what the first left."""
    module = importlib.import_module("recognition.commands.align_faces")
    module.build_detector = lambda *args, **kwargs: FewFaces()  # type: ignore[attr-defined]
    _photos(place / "in")
    (place / "in" / "a b" / "junk.jpg").write_bytes(b"no photo")
    plain = [str(place / "in"), "OUT", "--workers", "1", "--quiet"]
    return [[*plain, "--faces", "all", "--size", "48"], [*plain, "--min-size", "48", "--overwrite"]]


def crop(place: Path) -> list[list[str]]:
    """Make photos and a table that names one more."""
    _photos(place / "in")
    names = sorted(str(path.relative_to(place / "in")) for path in (place / "in").rglob("*.jpg"))
    rows = [f'"{name}",4,5,{40 + i},{30 + i}\n' for i, name in enumerate([*names, "c/absent"])]
    (place / "table.csv").write_text("NAME_ID,X,Y,W,H\n" + "".join(rows), encoding="utf-8")
    plain = [str(place / "in"), str(place / "table.csv"), "OUT", "--workers", "1", "--quiet"]
    return [plain, [*plain, "--min-size", "32", "--overwrite"]]


def embed(place: Path) -> list[list[str]]:
    """Make three blocks of tiny faces."""
    module = importlib.import_module("recognition.embedding.models")
    module.load_embedder = lambda *args, **kwargs: FewNumbers()  # type: ignore[attr-defined]
    generator = np.random.default_rng(0)
    for i in range(140):
        path = place / "in" / f"p {i % 3}" / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(generator.integers(0, 256, (8, 8, 3), np.uint8)))
    plain = [str(place / "in"), "OUT", "--device", "cpu", "--quiet"]
    return [[*plain, "--model", "dlib"], [*plain, "--model", "other.pt", "--overwrite"]]


def clean(place: Path) -> list[list[str]]:
    """Make the embeddings of some people, of whom one has a stranger among the pictures."""
    from tests.helpers.people import people, person_vectors, write_set

    module = importlib.import_module("recognition.cleaning.clean")
    module.draw_scores = lambda *args: b"a drawing takes a third of a second"  # type: ignore[attr-defined]
    vectors = people({f"person {i}": 6 for i in range(6)})
    vectors["person 1/stranger.jpg"] = person_vectors(100, 1)[0]
    faces, embedded = write_set(place, vectors)
    plain = [str(faces), "OUT", "--embeddings", str(embedded), "--device", "cpu", "--quiet"]
    steps = ["--steps", "within,small", "--within", "0.5"]
    return [[*plain, *steps], [*plain, *steps, "--split", "1", "--overwrite"]]


def pack(place: Path) -> list[list[str]]:
    """Make two folders of people, the second with fewer pictures."""
    _people(place / "in", 5, 0)
    _people(place / "less", 3, 1)
    more = ["OUT/train", "--workers", "1", "--quiet"]
    return [[str(place / "in"), *more], [str(place / "less"), *more, "--overwrite"]]


def pack_pairs(place: Path) -> list[list[str]]:
    """Make two lists of pairs."""
    _people(place / "in", 3, 0)
    for name, second in (("a", "p1/0.jpg"), ("b", "p2/1.jpg")):
        (place / f"{name}.txt").write_text(f"p0/0.jpg p0/1.jpg 1\np0/0.jpg {second} 0\n")
    more = [str(place / "in"), "OUT/lfw.bin", "--quiet"]
    return [[str(place / "a.txt"), *more], [str(place / "b.txt"), *more, "--overwrite"]]


def shuffle(place: Path) -> list[list[str]]:
    """Pack two sets; the second command shuffles over what pack_rec left, if it begins there."""
    sets = _packed(place)
    return [[sets[0], "OUT/train", "--quiet"], [sets[1], "OUT/train", "--seed", "3", "--overwrite", "--quiet"]]


def merge(place: Path) -> list[list[str]]:
    """Pack two sets."""
    sets = _packed(place)
    return [[*sets, "OUT/train", "--quiet"], [sets[1], sets[1], "OUT/train", "--overwrite", "--quiet"]]


def convert_to(layout: str) -> Callable[[Path], list[list[str]]]:
    """Return what packs two sets to convert."""

    def prepare(place: Path) -> list[list[str]]:
        sets = _packed(place)
        output = "OUT/train" if layout == "sequential" else "OUT"
        more = [output, "--to", layout, "--shard-images", "3", "--quiet"]
        return [[sets[0], *more], [sets[1], *more, "--overwrite"]]

    return prepare


def unpack(place: Path) -> list[list[str]]:
    """Pack two sets."""
    sets = _packed(place)
    return [[sets[0], "OUT", "--quiet"], [sets[1], "OUT", "--overwrite", "--quiet"]]


def _packed(place: Path) -> list[str]:
    pack_rec = importlib.import_module("recognition.commands.pack_rec").main
    for name, num in (("more", 5), ("less", 3)):
        _people(place / name, num, num)
        with contextlib.redirect_stdout(io.StringIO()):
            assert pack_rec([str(place / name), str(place / "packed" / name / "train"), "--quiet"]) == 0
    return [str(place / "packed" / name / "train.rec") for name in ("more", "less")]


def _people(folder: Path, num: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for i in range(num):
        (folder / f"p{i}").mkdir(parents=True)
        for k in range(2):
            (folder / f"p{i}" / f"{k}.jpg").write_bytes(encode_jpeg(generator.integers(0, 256, (16, 16, 3), np.uint8)))


def read_set(output: Path) -> Any:
    """Return all that a command gets from a set: its images, how many classes, and its list."""
    images = [(image.label, image.image) for image in open_stream(output)]
    listed = output / "train.lst" if (output / "train.rec").exists() else output / "images.lst"
    num_classes = ImageRecords(output).num_classes if (output / "train.rec").exists() else 0
    return images, num_classes, listed.read_bytes() if listed.exists() else None


def read_bin(output: Path) -> Any:
    """Return the pairs of a .bin."""
    pairs = read_pairs(output / "lfw.bin")
    return pairs.images, pairs.is_same.tolist()


CASES: dict[str, tuple[str, Callable[[Path], list[list[str]]]]] = {
    "align": ("align_faces", align),
    "crop": ("crop_boxes", crop),
    "embed": ("embed_faces", embed),
    "clean": ("clean_faces", clean),
    "pack": ("pack_rec", pack),
    "pack_bin": ("pack_bin", pack_pairs),
    "shuffle": ("shuffle_rec", shuffle),
    "merge": ("merge_rec", merge),
    "convert": ("convert_rec", convert_to("sequential")),
    "convert_shards": ("convert_rec", convert_to("webdataset")),
    "convert_folder": ("convert_rec", convert_to("folder")),
    "unpack": ("unpack_rec", unpack),
}
READERS: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys(("pack", "shuffle", "merge", "convert", "convert_shards", "convert_folder", "unpack"), read_set),
    "pack_bin": read_bin,
}
"""Of the outputs that are one thing: what reads them, and may get the old one, the new one, or a refusal."""


def kill_everywhere(
    main: Callable[[Sequence[str]], int],
    commands: list[list[str]],
    place: Path,
    read: Callable[[Path], Any] | None = None,
) -> dict[str, Any]:
    """Kill each command before its first, second ... change of the disk, run it to its end, and compare the trees.

    The second command, with --overwrite, starts from what the first one finished; and it ends what that left killed.
    """
    moments, unequal = [], []
    expected = [_whole(main, command, place / f"whole-{i}") for i, command in enumerate(commands)]
    output = place / "killed" / "out"
    whole = [read(place / f"whole-{i}") if read else None for i in range(len(commands))]
    refused = 0
    for number, command in enumerate(commands):
        for at in range(1, sys.maxsize):
            _start_from(place / "whole-0" if number else None, output)
            if _run(main, command, output, kill_at=at) != -signal.SIGKILL:
                break
            if number and any(settings.stat().st_size for settings in output.glob(".*/settings.json")):
                break  # what earlier runs left is gone, and all goes on as in an empty folder
            if read is not None:
                try:
                    torn = output.exists() and read(output) not in whole[: number + 1]
                except DataError:
                    torn, refused = False, refused + 1
                if torn:
                    unequal.append(f"command {number} killed before change {at} leaves a state that is read")
            in_place = [name for name in files_below(output) if not name.startswith(".")]
            endings = [0, 1] if number == 0 and in_place else [number]
            shutil.copytree(output.parent, place / "copy", dirs_exist_ok=True)
            for ending in endings:
                if ending != number:
                    _start_from(place / "copy" / "out", output)
                problem = _end(main, commands[ending], output, expected[ending])
                if problem:
                    unequal.append(f"command {number} killed before change {at}, ended by command {ending}: {problem}")
            shutil.rmtree(place / "copy")
        moments.append(at - 1)
    return {"moments": moments, "unequal": unequal, "refused": refused}


def _whole(main: Callable[[Sequence[str]], int], command: list[str], output: Path) -> Tree:
    """Run a command undisturbed into a new folder, in this process, so that what it imports is there for the forks.

    Returns what it made, the output called "out", and what lies beside it, such as "out.png".
    """
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(_filled(command, output)) == 0, f"the undisturbed run {command} fails"
    made = {
        path.name: tree(path) if path.is_dir() else path.read_bytes() for path in output.parent.glob(f"{output.name}*")
    }
    found: Tree = {}
    for name, content in made.items():
        place = f"out{name[len(output.name) :]}"
        found |= {place: None, **{f"{place}/{n}": c for n, c in content.items()}} if isinstance(content, dict) else {}
        found |= {} if isinstance(content, dict) else {place: content}
    return found


def _end(main: Callable[[Sequence[str]], int], command: list[str], output: Path, expected: Tree) -> str:
    """Run a command after a kill and return what is wrong with what it leaves, or with its status.

    It may refuse an output that was whole already.
    """
    was_whole = files_below(output.parent) == {name: found for name, found in expected.items() if found is not None}
    status = _run(main, command, output)
    if status != 0 and not (status == 1 and was_whole):
        return f"it ended with {status}"
    found = tree(output.parent)
    names = sorted(name for name in found | expected if found.get(name, 0) != expected.get(name, 0))
    return f"unequal: {names}" if names else ""


def _start_from(before: Path | None, output: Path) -> None:
    shutil.rmtree(output.parent if output.name == "out" else output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    if before is not None:
        for path in before.parent.iterdir():
            if before.name in path.name:  # the output, and what lies beside it
                target = output.with_name(path.name.replace(before.name, "out", 1))
                shutil.copytree(path, target) if path.is_dir() else shutil.copyfile(path, target)


def _run(main: Callable[[Sequence[str]], int], command: list[str], output: Path, *, kill_at: int = 0) -> int:
    """Run the command in a fork of this process, killed before its `kill_at`-th change; return its exit status."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            signal.alarm(_TIMEOUT_S)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if kill_at:
                _kill_before(kill_at, output.parent)
            status = main(_filled(command, output))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _filled(command: list[str], output: Path) -> list[str]:
    return [f"{output}{word[3:]}" if word == "OUT" or word.startswith("OUT/") else word for word in command]


def _kill_before(kill_at: int, below: Path) -> None:
    """Have this process killed before the `kill_at`-th change of what is below a folder."""
    seen = 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event in _EVENTS or (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_RDWR | os.O_WRONLY)
        )
        if writes and isinstance(args[0], (str, os.PathLike)):
            # What is removed or made relative to an open folder comes without its path; it is counted as well.
            path = os.fspath(args[0])
            if not os.path.isabs(path) or path.startswith(str(below)):
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _photos(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for i, name in enumerate(("a b/1.jpg", "a b/2.jpg", "ü/1.jpg", "ü/2.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rgb = cv2.resize(generator.integers(0, 256, (6, 6, 3), np.uint8), (64, 64))
        rgb[:16, :16] = 20 + 100 * (i % 3)
        (folder / name).write_bytes(encode_jpeg(rgb, 98))


def main(names: Sequence[str]) -> None:
    """Print the result of each case by its name."""
    cv2.setNumThreads(1)
    os.fsync = lambda descriptor: None  # a killed process loses nothing it has written, and disks are slow
    results = {}
    for name in names:
        script, prepare = CASES[name]
        command = importlib.import_module(f"recognition.commands.{script}").main
        with tempfile.TemporaryDirectory(prefix="kill_steps.") as place:
            results[name] = kill_everywhere(command, prepare(Path(place)), Path(place), READERS.get(name))
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
