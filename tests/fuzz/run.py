"""Fuzz every reader of untrusted files, guided by coverage, and print what was found.

    python -m tests.fuzz.run --runs 1000000 --out work_dirs/fuzz          make fuzz does the same

Needs atheris (pip install -e ".[fuzz]"). Each reader runs in a process of its own and starts from small valid files. An
input is a finding when anything but a DataError, ConfigError or CheckpointError of one line comes out, when it takes
more than a second of processor time, or when memory grows by more than 512 MiB (an allocation of over 1 GiB is refused,
and is a finding even where a reader answers the refusal with an error of ours). Findings are written to OUT, one file
for each place they come from; the exit status is 1 when there is one. A finding belongs into tests/fuzz/regressions
once its cause is mended.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 1.0
_LEAST_PART = 50  # of all inputs, which each reader gets at least
MEMORY_BYTES = 512 * 2**20
_STUCK_S = 60  # of wall time: an input that never returns ends its process


@dataclass
class Findings:
    """What one target did so far."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    memory_bytes: int = 0
    """Growth of the process's largest resident size since the fuzzing began."""
    accepted: int = 0
    found: dict[str, str] = field(default_factory=dict)
    """Place of each finding -> the file that holds its input."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the targets one after the other, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs over all targets (default: 1000000)")
    parser.add_argument("--targets", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, default=ROOT / "work_dirs" / "fuzz", help="folder for findings")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.child:
        _fuzz(args.child, args.runs, args.out, args.seed)
    return _drive(args)


def _drive(args: argparse.Namespace) -> int:
    from tests.fuzz.targets import TARGETS

    names = args.targets or list(TARGETS)
    total = sum(TARGETS[name].share for name in names)
    print(f"{'reader':<16}{'inputs':>10}{'/s':>8}{'read':>9}{'slowest':>10}{'memory':>10}{'coverage':>10}  findings")
    every = []
    for name in names:
        runs = max(-(-args.runs * TARGETS[name].share // total), args.runs // _LEAST_PART)
        result, coverage, problem = _run_child(name, runs, args)
        every.append(result)
        rate = result.inputs / max(result.seconds, 1e-9)
        found = len(result.found) + bool(problem)
        print(
            f"{name:<16}{result.inputs:>10,}{rate:>8,.0f}{result.accepted:>9,}{result.slowest_s:>8.2f} s"
            f"{result.memory_bytes / 2**20:>6.0f} MiB{coverage:>10}  {found}",
            flush=True,
        )
        for place, file in result.found.items():
            print(f"    {place}: {file}")
        if problem:
            print(f"    {problem}")
            result.found["process"] = problem
    inputs, seconds = sum(r.inputs for r in every), sum(r.seconds for r in every)
    num_found = sum(len(result.found) for result in every)
    print(f"{inputs:,} inputs in {seconds / 60:.1f} min ({inputs / max(seconds, 1e-9):,.0f}/s), {num_found} findings")
    return 1 if num_found else 0


def _run_child(name: str, runs: int, args: argparse.Namespace) -> tuple[Findings, str, str]:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        "--child",
        name,
        "--runs",
        str(runs),
        "--out",
        str(args.out),
        "--seed",
        str(args.seed),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    state = args.out / f"{name}.json"
    result = Findings(**json.loads(state.read_text())) if state.is_file() else Findings(name)
    covered = re.findall(r"\bcov: (\d+)", done.stderr)
    problem = "" if done.returncode == 0 else f"ended with status {done.returncode}: {done.stderr[-600:]!r}"
    return result, covered[-1] if covered else "-", problem


class _Fuzzer:
    """Counts inputs, measures each, and keeps one input for each place a finding comes from."""

    def __init__(self, name: str, runs: int, out: Path, folder: Path) -> None:
        from tests.fuzz.targets import attempt

        self._attempt = attempt
        self._runs, self._out, self._folder = runs, out, folder
        self._findings = Findings(name)
        self._base_bytes = _peak_bytes()
        self._began = time.monotonic()

    def __call__(self, data: bytes) -> None:
        found = self._findings
        started = time.process_time()
        try:
            found.accepted += self._attempt(found.target, data, self._folder)
        except Exception as err:
            self._keep(_place(err), data)
        took = time.process_time() - started
        found.inputs += 1
        found.slowest_s = max(found.slowest_s, took)
        if took > SECONDS:
            self._keep("slow (over a second)", data)
        grown = _peak_bytes() - self._base_bytes
        if grown > max(found.memory_bytes, MEMORY_BYTES):
            self._keep("memory (over the limit)", data)
        found.memory_bytes = max(found.memory_bytes, grown)
        if found.inputs % 1000 == 0 or found.inputs >= self._runs:
            self._report()
        if found.inputs >= self._runs:
            sys.stderr.flush()
            os._exit(0)

    def _keep(self, place: str, data: bytes) -> None:
        known = place.partition(" (")[0]
        if known in {name.partition(" (")[0] for name in self._findings.found}:
            return
        path = self._out / f"{self._findings.target}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        self._findings.found[place] = str(path)
        self._report()

    def _report(self) -> None:
        self._findings.seconds = time.monotonic() - self._began
        state = self._out / f"{self._findings.target}.json"
        state.write_text(json.dumps(asdict(self._findings)))


def _fuzz(name: str, runs: int, out: Path, seed: int) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as work:
        corpus, folder = Path(work) / "corpus", Path(work) / "files"
        corpus.mkdir()
        folder.mkdir()
        with atheris.instrument_imports(include=["recognition", "data_tools", "eval"]):
            from tests.fuzz.targets import TARGETS

            target = TARGETS[name]
            for number, content in enumerate(target.seeds()):
                (corpus / f"seed{number}").write_bytes(content)
                with contextlib.suppress(Exception):
                    target.read(content, folder)  # imports and first allocations are not the inputs' doing
        (out / f"{name}.json").unlink(missing_ok=True)
        os.chdir(folder)
        _limit_memory()
        fuzzer = _Fuzzer(name, runs, out, folder)
        flags = [f"-max_len={target.max_len}", f"-timeout={_STUCK_S}", "-rss_limit_mb=0", f"-seed={seed}"]
        atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={out}/stuck-", str(corpus)], fuzzer)
        atheris.Fuzz()


def _limit_memory() -> None:
    """Let no allocation pass that would take the process 1 GiB beyond what it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2 * MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _place(err: BaseException) -> str:
    """Return the kind of an exception and the innermost line of ours that it came through."""
    frames = [frame for frame in traceback.extract_tb(err.__traceback__) if str(ROOT) in frame.filename]
    ours = [frame for frame in frames if "/.venv/" not in frame.filename and "/tests/" not in frame.filename] or frames
    last = ours[-1]
    return f"{type(err).__name__} at {os.path.relpath(last.filename, ROOT)}:{last.lineno} ({str(err)[:120]!r})"


if __name__ == "__main__":
    sys.exit(main())
