"""Measure the loader against a bare decode loop and against a loader of the usual shape.

    python benchmarks/data.py --json results.json --plot results.png

Three contenders read the same JPEGs, in turns, round after round, so that a busy machine slows all of them:
  decode   cv2.imdecode in a loop over bytes in memory: nothing that decodes with OpenCV can be faster
  loader   this project's loader, from the .rec to a batch on the device
  peer     one image at a time, PIL flip, float CHW on the CPU, default collate, as arcface_torch and others do
"cpu" is images per second of processor time in one process, "wall" is images per second with one process per core.
Then the index: opening one of 42,474,557 entries for the first and the second time, and what it costs in memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

import cv2
import numpy as np
import torch

from recognition.cli import make_parser, positive_int, run_command
from recognition.distributed.world import World
from recognition.feed.datasets import RecDataset
from recognition.feed.loader import BatchLoader
from recognition.feed.sampler import GlobalBatchSampler
from recognition.formats.recordio import frame, pack_image
from recognition.formats.records import ImageRecords
from recognition.formats.set_writer import ImageSetWriter
from recognition.images.codec import encode_jpeg
from recognition.work.system import usable_cores

CPU = torch.device("cpu")
WF42M = (42_474_557, 2_059_906)  # images and identities of WebFace42M


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser("data", __doc__)
    parser.add_argument("--rec", type=Path, help="a packed set of 112x112 images; default: photo-like pictures, q95")
    parser.add_argument("--images", type=positive_int, default=2048, help="images per measurement (default 2048)")
    parser.add_argument("--rounds", type=positive_int, default=7, help="measurements per contender (default 7)")
    cores = usable_cores()
    parser.add_argument("--workers", type=positive_int, default=cores, help="processes; default: one per core")
    parser.add_argument("--batch-size", type=positive_int, default=128)
    parser.add_argument("--index-entries", type=int, default=WF42M[0], help="of the synthetic index; 0: none")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    parser.add_argument("--plot", type=Path, help="write a bar chart here")
    return run_command(parser, run, argv)


def run(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        rec = args.rec or write_pictures(Path(scratch) / "pictures.rec", args.images)
        dataset = RecDataset(Path(rec), 112)
        result: dict[str, Any] = {"images": args.images, "mean_bytes": mean_bytes(dataset, args.images)}
        result["cpu"] = one_process(dataset, args)
        result["wall"] = all_cores(dataset, args)
        if args.index_entries:
            result["index"] = measure_index(Path(scratch), args.index_entries)
    sys.stdout.write("\n".join(describe(result)) + "\n")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    if args.plot:
        plot(result, args.plot)


def one_process(dataset: RecDataset, args: argparse.Namespace) -> dict[str, Any]:
    """Return images per second of processor time, everything in this process and one thread."""
    encoded = in_memory(dataset, args.images)
    loader = BatchLoader(
        dataset, seed=0, batch_size=args.batch_size, world=World(0, 1, 0, CPU), num_workers=0, device=CPU
    )
    peer = torch.utils.data.DataLoader(PeerDataset(dataset), args.batch_size, shuffle=True, drop_last=True)
    contenders = {
        "decode": lambda: decode_all(encoded),
        "loader": lambda: drain(loader.epoch(0), args.images),
        "peer": lambda: drain(iter(peer), args.images),
    }
    return compare(contenders, args.rounds, time.process_time)


def all_cores(dataset: RecDataset, args: argparse.Namespace) -> dict[str, Any]:
    """Return images per second with `workers` processes, start-up not counted."""
    loader = BatchLoader(
        dataset, seed=0, batch_size=args.batch_size, world=World(0, 1, 0, CPU), num_workers=args.workers, device=CPU
    )
    peer = torch.utils.data.DataLoader(
        PeerDataset(dataset),
        args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=True,
        worker_init_fn=one_thread,
    )
    parts = [in_memory(dataset, args.images)[start :: args.workers] for start in range(args.workers)]
    with multiprocessing.Pool(args.workers, one_thread, [0]) as pool:
        contenders = {
            "decode": lambda: sum(pool.map(decode_all, parts, chunksize=1)),
            "loader": lambda: drain(loader.epoch(0), args.images),
            "peer": lambda: drain(iter(peer), args.images),
        }
        for contender in contenders.values():
            contender()  # starts the processes
        result = compare(contenders, args.rounds, time.perf_counter)
    loader.close()
    return {**result, "workers": args.workers}


def compare(contenders: dict[str, Callable[[], int]], rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Run the contenders in turns; return the median rate of each and the median of the per-round ratios."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            started = clock()
            num_images = contender()
            rates[name].append(num_images / (clock() - started))
    return {
        "images_per_s": {name: round(statistics.median(values)) for name, values in rates.items()},
        "loader_per_decode": round(median_ratio(rates["loader"], rates["decode"]), 3),
        "loader_per_peer": round(median_ratio(rates["loader"], rates["peer"]), 2),
        "rounds": {name: [round(value) for value in values] for name, values in rates.items()},
    }


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def decode_all(encoded: list[bytes]) -> int:
    for image in encoded:
        cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    return len(encoded)


def drain(batches: Iterator[Any], num_images: int) -> int:
    """Take whole batches until `num_images` are there."""
    seen = 0
    for batch in batches:
        seen += len(batch[1])
        if seen + len(batch[1]) > num_images:
            break
    return seen


class PeerDataset(torch.utils.data.Dataset[Any]):
    """ToPILImage, RandomHorizontalFlip, ToTensor, Normalize, spelled out; the reading is ours, which favors it."""

    def __init__(self, dataset: RecDataset) -> None:
        self._records = ImageRecords(dataset.path)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        from PIL import Image

        record = self._records.read(index)
        pixels = cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert pixels is not None
        picture = Image.fromarray(pixels)
        if torch.rand(1) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        planes = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean, std = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.5)
        return planes.sub_(mean).div_(std), torch.tensor(record.label)


def one_thread(_: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def in_memory(dataset: RecDataset, num_images: int) -> list[bytes]:
    records = ImageRecords(dataset.path)
    return [records.read(i % len(records)).image for i in range(num_images)]


def mean_bytes(dataset: RecDataset, num_images: int) -> int:
    return round(statistics.mean(map(len, in_memory(dataset, num_images))))


def write_pictures(rec: Path, num_images: int) -> Path:
    """Write a set of smooth pictures with a little grain, which compress like photos of faces."""
    rng = np.random.default_rng(0)
    with open(rec, "wb") as records, open(rec.with_suffix(".idx"), "wb") as idx, open(os.devnull, "wb") as lst:
        writer = ImageSetWriter(records, idx, lst, layout="sequential")
        for number in range(num_images):
            coarse = rng.integers(0, 255, (14, 14, 3), dtype=np.uint8)
            smooth = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)
            grain = rng.normal(0, 4, smooth.shape)
            picture = np.clip(smooth + grain, 0, 255).astype(np.uint8)
            writer.add(number % 100, encode_jpeg(picture, 95), f"{number}.jpg")
        writer.finish()
    rec.with_name("property").write_text("100,112,112\n")
    return rec


def measure_index(folder: Path, num_entries: int) -> dict[str, Any]:
    """Open a synthetic index twice, each time in a new process, and read a batch through eight workers."""
    rec = write_sparse_set(folder / "large.rec", num_entries)
    openings = []
    for num_workers in (0, 8):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            openings.append(pool.apply(open_large, (str(rec), num_workers)))
    return {"entries": num_entries, "first": openings[0], "second": openings[1]}


def open_large(rec: str, num_workers: int) -> dict[str, Any]:
    before = private_mib(os.getpid())
    started, processor = time.perf_counter(), time.process_time()
    dataset = RecDataset(Path(rec), 112)
    result: dict[str, Any] = {
        "open_s": round(time.perf_counter() - started, 3),
        "open_cpu_s": round(time.process_time() - processor, 3),
        "private_mib": round(private_mib(os.getpid()) - before, 1),
    }
    if num_workers:
        # A pool's process may have no children of its own; these are ended by the loader.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        loader = BatchLoader(
            dataset, seed=0, batch_size=128, world=World(0, 1, 0, CPU), num_workers=num_workers, device=CPU
        )
        next(loader.epoch(0))
        started = time.perf_counter()
        next(loader.epoch(1))
        result["first_batch_s"] = round(time.perf_counter() - started, 3)
        result["worker_private_mib"] = [round(private_mib(pid), 1) for pid in loader.worker_pids()]
        loader.close()
    return result


def write_sparse_set(rec: Path, num_images: int) -> Path:
    """Write an index of `num_images` and a .rec with holes: only the first batches of two epochs are images."""
    extent = 4096
    image = encode_jpeg(np.full((112, 112, 3), 128, np.uint8), 95)
    payload = pack_image(0, image, record_id=0)
    payload += bytes(extent - 8 - len(payload))  # behind the JPEG's end, where decoders do not look
    with open(rec, "wb") as records:
        records.truncate(num_images * extent)
        for epoch in range(2):
            first = itertools.islice(GlobalBatchSampler(num_images, seed=0, batch_size=128, epoch=epoch), 24)
            for position in [0, num_images - 1, *np.concatenate(list(first)).tolist()]:
                records.seek(position * extent)
                records.write(frame(payload))
    with open(rec.with_suffix(".idx"), "w") as idx:
        for start in range(0, num_images, 2**20):
            idx.write("".join(f"{key}\t{key * extent}\n" for key in range(start, min(start + 2**20, num_images))))
    rec.with_name("property").write_text(f"{WF42M[1]},112,112\n")
    return rec


def private_mib(pid: int) -> float:
    """Return the memory that only this process has (USS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) / 1024


def describe(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['images']:,} JPEGs of 112x112, {result['mean_bytes']:,} bytes on average"
    for kind, words in (("cpu", "per second of one core"), ("wall", f"with {result['wall']['workers']} processes")):
        rates = ", ".join(f"{name} {rate:,}/s" for name, rate in result[kind]["images_per_s"].items())
        ratios = f"{result[kind]['loader_per_decode']:.2f} of decode, {result[kind]['loader_per_peer']:.1f} x peer"
        yield f"{words}: {rates}: the loader is {ratios}"
    if "index" in result:
        index = result["index"]
        for name in ("first", "second"):
            opened = index[name]
            yield (
                f"index of {index['entries']:,}, {name} opening: {opened['open_s']:.2f} s "
                f"({opened['open_cpu_s']:.2f} s of processor time), {opened['private_mib']:.1f} MiB private"
            )
        workers = index["second"]["worker_private_mib"]
        yield f"first batch of an epoch: {index['second']['first_batch_s']:.3f} s; workers hold {workers} MiB each"


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, kind, title in zip(axes, ("cpu", "wall"), ("one core", f"{result['wall']['workers']} processes")):
        rates = result[kind]["images_per_s"]
        bars = axis.bar(list(rates), list(rates.values()), color=["#999999", "#2a6fbb", "#c96a3b"])
        axis.bar_label(bars, fmt="{:,.0f}")
        axis.set(title=title, ylabel="images/s")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
