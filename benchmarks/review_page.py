"""Measure the review page in Chromium: time to the first thumbnails, and frames while it scrolls.

    python data_tools/make_faces.py faces/ --identities 625 --images 8
    python benchmarks/review_page.py faces/

Makes a page of every picture in FACES with random decisions and doubts. The first thumbnails are there when a
screenshot shows each visible candidate's own pixels; the time counts from the navigation to that screenshot's end.
Then the wheel turns for --seconds, and the time between animation frames is taken. Needs chromium and playwright.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import cv2
import numpy as np

from recognition.cli import make_parser, positive_int, run_command
from recognition.commands.review_faces import main as make_page
from recognition.console import Stopwatch
from recognition.errors import DataError
from recognition.formats.image_tree import ImageTree
from recognition.images.photos import PHOTO_SUFFIXES, decode_photo

WINDOW = {"width": 1280, "height": 800}
TILE_PX = 112
WHEEL_PX = 400
NOTE_FRAMES = """() => {
  let last = performance.now();
  window.frames_ms = [];
  const tick = () => {
    const now = performance.now();
    window.frames_ms.push(now - last);
    last = now;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}"""
VISIBLE = """() => [...document.querySelectorAll(".card:not([hidden]):not(.probe)")].map((card) => {
  const box = card.querySelector(".candidate").getBoundingClientRect();
  return [card.querySelector(".picture").textContent, box.x, box.y, box.width, box.height];
}).filter(([, , y, , height]) => y >= document.getElementById("list").getBoundingClientRect().y
  && y + height <= innerHeight)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, and return the exit status."""
    parser = make_parser("review_page", __doc__)
    parser.add_argument("faces", type=Path, metavar="FACES", help="folder of faces, one subfolder per identity")
    parser.add_argument("--seconds", type=positive_int, default=10, help="how long the wheel turns (default: 10)")
    parser.add_argument("--opens", type=positive_int, default=5, help="times the page is opened (default: 5)")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser (default: Debian's)")
    parser.add_argument("--json", action="store_true")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as err:
        raise DataError("playwright: is not installed; expected it to drive the browser; install .[browser]") from err
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        page_folder, result = build(args.faces, Path(temporary))
        url = (page_folder / "index.html").as_uri()
        waits = []
        for _ in range(args.opens):  # a new browser each time: nothing is cached
            browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport=WINDOW)
            waits.append(first_thumbnails(page, url, args.faces))
            frames = scroll(page, args.seconds) if len(waits) == args.opens else []
            cards = page.locator(".card").count()
            browser.close()
    result |= {"first_thumbnails_s": [round(wait, 3) for wait in waits], "cards": cards, **summary(frames)}
    print(json.dumps(result) if args.json else "\n".join(f"{key:20} {value}" for key, value in result.items()))


def build(faces: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Make a page of all the pictures in `faces`, each beside three others of its identity; return it and its sizes."""
    generator = random.Random(0)
    pictures = ImageTree(faces, PHOTO_SUFFIXES).names()
    people = defaultdict(list)
    for picture in pictures:
        people[picture.split("/")[0]].append(picture)
    lines = [_decision(picture, people, generator) for picture in pictures]
    (folder / "decisions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    watch = Stopwatch()
    with contextlib.redirect_stdout(sys.stderr):
        status = make_page(
            [str(faces), str(folder), str(folder / "page"), "--limit", "50000", "--min-doubt", "0", "--quiet"]
        )
    if status != 0:
        raise DataError(f"{faces}: no page was made of it; see above; fix that first")
    files = [path for path in (folder / "page").rglob("*") if path.is_file()]
    megabytes = round(sum(path.stat().st_size for path in files) / 1e6, 1)
    sizes = {"pictures": len(pictures), "files": len(files), "megabytes": megabytes}
    return folder / "page", {**sizes, "made_in_s": round(watch.seconds, 1)}


def _decision(picture: str, people: dict[str, list[str]], generator: random.Random) -> dict[str, Any]:
    identity = picture.split("/")[0]
    to = generator.choice(sorted(people)) if generator.random() < 0.2 else None
    others = [other for other in people[to or identity] if other != picture]
    return {
        "picture": picture,
        "identity": identity,
        "decision": "move" if to else generator.choice(["keep", "drop"]),
        "to": to,
        "reason": "random",
        "score": generator.random(),
        "doubt": generator.random(),
        "step": "random",
        "beside": others[:3],
    }


def first_thumbnails(page: Any, url: str, faces: Path) -> float:
    """Open the page and return the seconds until a screenshot shows every visible candidate."""
    start = time.monotonic()
    page.goto(url)
    while True:
        screen = _screenshot(page)
        wait = time.monotonic() - start
        visible = page.evaluate(VISIBLE)
        if visible and all(shows(screen, box, faces / picture) for picture, *box in visible):
            return wait
        if wait > 60:
            raise DataError(f"{url}: shows no thumbnails after a minute; expected them at once; open it by hand")


def shows(screen: np.ndarray, box: Sequence[float], picture: Path) -> bool:
    """Return whether the screenshot holds a picture at left, top, width, height."""
    left, top, width, height = (round(number) for number in box)
    seen = cv2.resize(screen[top : top + height, left : left + width], (TILE_PX, TILE_PX)).astype(int)
    expected = cv2.resize(decode_photo(picture.read_bytes(), place=str(picture)), (TILE_PX, TILE_PX))
    inside = slice(8, -8)  # the corners are round
    return bool(np.abs(seen[inside, inside] - expected[inside, inside]).mean() < 12)


def scroll(page: Any, seconds: int) -> list[float]:
    """Turn the wheel downwards and return the milliseconds between the animation frames meanwhile."""
    page.mouse.move(WINDOW["width"] / 2, WINDOW["height"] / 2)
    page.evaluate(NOTE_FRAMES)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        page.mouse.wheel(0, WHEEL_PX)
        page.wait_for_timeout(16)
    return page.evaluate("window.frames_ms")


def summary(frames: Sequence[float]) -> dict[str, Any]:
    """Return quantiles of frame times in milliseconds, and the share of frames under 50."""
    times = np.array(frames)
    quantiles = {f"frame_p{q}_ms": round(float(np.percentile(times, q)), 1) for q in (50, 95, 99, 100)}
    return {"frames": len(times), **quantiles, "under_50_ms": round(float((times < 50).mean()), 4)}


def _screenshot(page: Any) -> np.ndarray:
    encoded = np.frombuffer(page.screenshot(), np.uint8)
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)


if __name__ == "__main__":
    sys.exit(main())
