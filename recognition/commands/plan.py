"""Print what a number of identities needs on every rank, or how many fit into an amount of memory.

    python -m recognition plan --identities 100e6 --ranks 8 --network r100 --batch-size 128
    python -m recognition plan --memory-gib 80 --ranks 8 --network r50 --centers-format bf16 --momentum-format int8
    python -m recognition plan --roofline
    python -m recognition plan --identities 10e6 --tflops 790 --tflops-float32 50 --bandwidth-gb 4300 --products bf16

Times are lower limits: what the given or measured rates allow at best, not what a run reaches. --roofline prints what a
model says of whole steps on an H200, an A100 and a 4090, and what bounds them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

import torch

from recognition.cli import make_parser, non_negative_float, positive_float, positive_int, run_command
from recognition.config.checks import check_config
from recognition.config.schema import (
    BackboneConfig,
    Config,
    DataConfig,
    HeadConfig,
    OptimConfig,
    Precision,
    TrainConfig,
)
from recognition.console import count, size
from recognition.distributed.world import planned_device
from recognition.errors import ConfigError
from recognition.heads.products import has_float32_sums, resolve_products
from recognition.plan.capacity import Cost, cost_of, most_identities
from recognition.plan.rates import Rates, measure_rates
from recognition.plan.roofline import BATCHES, GPUS, IDENTITIES, estimate, lines

_GIB = 2**30


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer and return the exit status."""
    return run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("plan", __doc__)
    asked = parser.add_argument_group("the question")
    asked.add_argument("--identities", type=positive_int, help="such as 93431 or 100e6; needs --memory-gib when absent")
    asked.add_argument("--memory-gib", type=positive_float, help="memory of a rank: does it fit, and how many would")
    asked.add_argument("--reserve-gib", type=non_negative_float, default=0.0, help="of it, kept for the framework [0]")
    asked.add_argument("--roofline", action="store_true", help="a step on GPUs that are not here, by a model")
    asked.add_argument("--ranks", type=positive_int, default=1, help="[1]")
    run = parser.add_argument_group("the run")
    defaults = Config()
    run.add_argument("--network", default=defaults.backbone.network, help="[%(default)s]")
    run.add_argument("--batch-size", type=positive_int, default=defaults.train.batch_size, help="[%(default)s]")
    run.add_argument("--embedding-size", type=positive_int, default=512, help="[%(default)s]")
    run.add_argument("--image-size", type=positive_int, default=112, help="[%(default)s]")
    run.add_argument("--precision", choices=get_args(Precision), default="bf16", help="[%(default)s]")
    run.add_argument("--gradient-accumulation", type=positive_int, default=1, help="[%(default)s]")
    run.add_argument("--optimizer", choices=_choices(OptimConfig, "optimizer"), default="sgd", help="[%(default)s]")
    head = parser.add_argument_group("the head")
    for name in ("update", "products", "centers_format", "momentum_format", "unsampled"):
        flag = "--" + name.replace("_", "-")
        default = getattr(defaults.head, name)
        head.add_argument(flag, choices=_choices(HeadConfig, name), default=default, help="[%(default)s]")
    head.add_argument("--sample-rate", type=non_negative_float, default=1.0, help="[%(default)s]")
    head.add_argument("--sub-centers", type=positive_int, default=1, help="[%(default)s]")
    head.add_argument("--block-size", type=positive_int, help="[chosen]")
    rates = parser.add_argument_group("rates of a rank, for floor times")
    rates.add_argument("--tflops", type=positive_float, help="of 16-bit matrix products, TFLOP/s")
    rates.add_argument("--tflops-float32", type=positive_float, help="of float32 matrix products")
    rates.add_argument("--bandwidth-gb", type=positive_float, help="of its memory, GB/s")
    rates.add_argument("--link-gb", type=positive_float, help="to the other ranks, GB/s")
    rates.add_argument("--measure", action="store_true", help="measure what is not given on this machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _run(args: argparse.Namespace) -> None:
    if args.roofline:
        _print_roofline(args)
        return
    config = _config(args)
    if args.identities is None and args.memory_gib is None:
        raise ConfigError("--identities and --memory-gib are both absent; state one, or both")
    most = None
    if args.memory_gib is not None:
        memory_bytes = int((args.memory_gib - args.reserve_gib) * _GIB)
        most = most_identities(config, world_size=args.ranks, memory_bytes=memory_bytes)
    identities = args.identities or most
    if not identities:
        least = cost_of(config, world_size=args.ranks, num_classes=1, rates=Rates()).memory.total
        raise ConfigError(
            f"--memory-gib {args.memory_gib:g}: no identity fits, the run needs {size(least)} without any; raise it, "
            "or lower --batch-size"
        )
    cost = cost_of(config, world_size=args.ranks, num_classes=identities, rates=_rates(args))
    if args.json:
        print(json.dumps(_as_json(cost, most)))
    else:
        print("\n".join(_lines(cost, most, args)))


def _print_roofline(args: argparse.Namespace) -> None:
    if not has_float32_sums():
        raise ConfigError(
            f"--roofline: found torch {torch.__version__}, whose products of bfloat16 have no float32 sum to trace; "
            "expected torch 2.8 or newer; update torch"
        )
    identities = IDENTITIES if args.identities is None else (args.identities,)
    estimates = [
        estimate(gpu, number, batch, network=args.network) for gpu in GPUS for number in identities for batch in BATCHES
    ]
    if args.json:
        print(json.dumps([{**dataclasses.asdict(each), "bound": each.bound} for each in estimates]))
    else:
        print("\n".join(lines(estimates, args.network)))


def _config(args: argparse.Namespace) -> Config:
    """Return the config the flags describe; ConfigError where the flags contradict each other."""
    config = Config(
        data=DataConfig(image_size=args.image_size),
        backbone=BackboneConfig(network=args.network, embedding_size=args.embedding_size),
        head=HeadConfig(
            update=args.update,
            products=resolve_products(args.products, torch.device(planned_device("auto"))),
            centers_format=args.centers_format,
            momentum_format=args.momentum_format,
            sample_rate=args.sample_rate,
            unsampled=args.unsampled,
            sub_centers=args.sub_centers,
            block_size=args.block_size,
        ),
        optim=OptimConfig(optimizer=args.optimizer),
        train=TrainConfig(
            batch_size=args.batch_size,
            precision=args.precision,
            gradient_accumulation=args.gradient_accumulation,
        ),
    )
    check_config(config)
    return config


def _rates(args: argparse.Namespace) -> Rates:
    measured = measure_rates() if args.measure else Rates()
    return Rates(
        flops_16_bit=args.tflops * 1e12 if args.tflops else measured.flops_16_bit,
        flops_float32=args.tflops_float32 * 1e12 if args.tflops_float32 else measured.flops_float32,
        memory_bytes_per_s=args.bandwidth_gb * 1e9 if args.bandwidth_gb else measured.memory_bytes_per_s,
        wire_bytes_per_s=args.link_gb * 1e9 if args.link_gb else None,
    )


def _as_json(cost: Cost, most: int | None) -> dict[str, Any]:
    return {
        "identities": cost.num_classes,
        "ranks": cost.world_size,
        "memory_bytes": {**cost.memory.parts(), "total": cost.memory.total},
        "host_memory_bytes": {"checkpoint copy": cost.memory.staging},
        "collective_bytes": {collective.name: collective.num_bytes for collective in cost.collectives},
        "floors_s": {**dataclasses.asdict(cost.floors), "step_s": cost.floors.step_s},
        "most_identities": most,
        "fits": None if most is None else cost.num_classes <= most,
    }


def _lines(cost: Cost, most: int | None, args: argparse.Namespace) -> Iterator[str]:
    yield (
        f"{cost.num_classes:,} identities on {count(cost.world_size, 'rank')}, {args.network}, "
        f"{count(args.batch_size, 'image')} each"
    )
    yield from _table("memory of a rank", {name: size(part) for name, part in cost.memory.parts().items() if part})
    yield f"  {'total':<40}{size(cost.memory.total):>12}"
    yield f"  {'and of the host, to write checkpoints from':<40}{size(cost.memory.staging):>12}"
    if cost.collectives:
        sent = {collective.name: size(collective.num_bytes) for collective in cost.collectives}
        yield from _table("sent by a rank in a step", sent)
    yield from _floor_lines(cost, args)
    if most is None:
        return
    reserve = f", {args.reserve_gib:g} GiB of them kept free" if args.reserve_gib else ""
    yield f"in {args.memory_gib:g} GiB a rank{reserve}: at most {most:,} identities"
    if cost.num_classes > most:
        yield f"does not fit: {size(cost.memory.total - (args.memory_gib - args.reserve_gib) * _GIB)} too much"


def _floor_lines(cost: Cost, args: argparse.Namespace) -> Iterator[str]:
    floors = cost.floors
    parts = {
        "backbone": floors.backbone_s,
        "head, matrix products": floors.head_products_s,
        "head, memory traffic": floors.head_traffic_s,
        "collectives": floors.collectives_s,
    }
    known = {name: f"{seconds * 1e3:.2f} ms" for name, seconds in parts.items() if seconds}
    if not known:
        yield "no floor times: pass --tflops, --tflops-float32, --bandwidth-gb and --link-gb, or --measure"
        return
    yield from _table("floors of a step", known)
    if floors.step_s:
        images = cost.global_batch / floors.step_s
        yield f"  {'at best':<40}{f'{floors.step_s * 1e3:.2f} ms':>12}, {images:,.0f} images/s over all ranks"


def _table(title: str, rows: dict[str, str]) -> Iterator[str]:
    yield title
    for name, value in rows.items():
        yield f"  {name:<40}{value:>12}"


def _choices(section: type, name: str) -> tuple[str, ...]:
    return get_args(get_type_hints(section)[name])
