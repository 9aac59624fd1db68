"""Settle on one GPU what no CPU can: at most ten minutes, the most telling parts first, one JSON line a part.

    python benchmarks/gpu.py                         every part on cuda:0; writes docs/measurements/gpu.md
    python benchmarks/gpu.py --fake                  what goes on tensors without values, on a machine without a GPU
    python benchmarks/gpu.py --parts sync,sweep      some of them

The parts are independent: on a GPU each has a process and a time limit of its own, and one that fails or hangs is a
line that says so.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import argparse
import json
import subprocess
import time
from typing import Any

from recognition.cli import make_parser, positive_int, run_command
from recognition.work.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "measurements" / "gpu.md"
NAMES = (
    *("probes", "kernels", "sync", "head", "rivals", "sweep"),
    *("networks", "loader", "checkpoint", "graph", "determinism", "ending"),
)
PART_S = 150


def main(argv: list[str] | None = None) -> int:
    """Run the parts and write the page."""
    parser = make_parser("gpu", __doc__)
    parser.add_argument("--fake", action="store_true", help="tensors without values; needs g++ and torch's headers")
    parser.add_argument("--parts", default=",".join(NAMES), help="[all]")
    parser.add_argument("--part", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--limit-s", type=positive_int, default=600, help="for all parts [%(default)s]")
    parser.add_argument("--page", type=Path, default=PAGE, help="[docs/measurements/gpu.md]")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    if args.part:
        print(json.dumps(run_part(args.part, is_fake=False)), flush=True)
        return
    started, lines = time.perf_counter(), []
    if args.fake:
        from tests.fake_cuda.library import load

        load()
    for name in args.parts.split(","):
        left = args.limit_s - (time.perf_counter() - started)
        line = run_part(name, is_fake=True) if args.fake else _in_own_process(name, min(PART_S, left))
        lines.append(line)
        print(json.dumps(line), flush=True)
    write_text(args.page, render(lines, is_fake=args.fake, seconds=time.perf_counter() - started))


def run_part(name: str, *, is_fake: bool) -> dict[str, Any]:
    """Return what a part found, or what it failed with."""
    from benchmarks import gpu_parts

    part, started = getattr(gpu_parts, name), time.perf_counter()
    try:
        if not is_fake:
            found = part(is_fake=False)
        elif name in gpu_parts.WANTS_A_GPU:
            found = {"not run": gpu_parts.WANTS_A_GPU[name]}
        else:
            from tests.fake_cuda.steps import count_kernels
            from tests.fake_cuda.watch import FakeMode

            count_kernels(gpu_parts.COUNTED)
            with FakeMode():
                found = part(is_fake=True)
    except Exception as err:  # the other parts go on
        found = {"failed": f"{type(err).__name__}: {str(err).strip().splitlines()[0][:300]}"}
    return {"part": name, "seconds": round(time.perf_counter() - started, 1), "found": found}


def _in_own_process(name: str, limit_s: float) -> dict[str, Any]:
    if limit_s < 1:
        return {"part": name, "seconds": 0, "found": {"not run": "no time was left"}}
    command = [sys.executable, __file__, "--part", name, "--quiet"]
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
        line: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"part": name, "seconds": round(limit_s, 1), "found": {"failed": f"not done in {limit_s:.0f} s"}}
    except (IndexError, ValueError):
        words = (ended.stderr.strip().splitlines() or ["no word"])[-1][:300]
        return {"part": name, "seconds": 0, "found": {"failed": f"status {ended.returncode}: {words}"}}
    return line


def render(lines: list[dict[str, Any]], *, is_fake: bool, seconds: float) -> str:
    """Return the page."""
    told = (
        "**Nothing on this page was measured on a GPU.** It was written by `make gpu GPU=--fake`, on tensors with\n"
        "shapes, a device and no values: it shows that each part runs as far as it goes without values, how many\n"
        "operations it launches, and what was left out. Run `make gpu` on a machine with a GPU to replace it.\n"
        if is_fake
        else "Written by `make gpu` on the GPU that the part *probes* names.\n"
    )
    rows = []
    for line in lines:
        for name, value in line["found"].items():
            rows.append(f"| {line['part']} | {name} | {str(value).replace('|', '/')} |")
    table = "\n".join(["| part | what | found |", "|---|---|---|", *rows])
    return f"# On a GPU\n\n{told}\nAll parts took {seconds:.0f} s.\n\n{table}\n"


if __name__ == "__main__":
    sys.exit(main())
