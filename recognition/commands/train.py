"""Train a face-recognition model with the class centers sharded over all processes.

    torchrun --nproc_per_node=8 train_v2.py configs/ms1mv3_r50 [optim.lr=0.2 head.sample_rate=0.1 ...] [--check]
    python train_v2.py configs/demo                                one process, no launcher, CPU if there is no GPU

CONFIG is a YAML file (with or without .yaml); KEY=VALUE overrides its keys; --check prints the plan and stops.
A run writes work_dirs/<config>/: config.yaml, train.log, logs/, metrics.jsonl, tensorboard/, checkpoints/, and from the
first validation or epoch on the model: model.safetensors, which says what it is, and model.pt, the same weights for
insightface's programs; those of the best validation are best.safetensors and best.pt.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from recognition.backbones.architecture import Architecture
from recognition.backbones.run_weights import CHECKPOINTS, RUN_CONFIG
from recognition.backbones.weights import check_weights
from recognition.cli import make_parser, run_command
from recognition.config.loader import dump_config, load_config
from recognition.config.schema import Config
from recognition.distributed.checkpoint import Checkpoint, latest_checkpoint
from recognition.distributed.together import together
from recognition.distributed.world import (
    World,
    choose_device,
    declared_local_rank,
    declared_local_size,
    declared_rank,
    declared_size,
    join_world,
    leave_at_once,
    planned_device,
    report_to_launcher,
)
from recognition.errors import ConfigError, DataError
from recognition.feed.build import build_loader
from recognition.feed.dataset import Dataset
from recognition.feed.datasets import open_dataset
from recognition.plan import Plan, find_inputs, make_plan, measure_timing, render_plan, takes_a_moment
from recognition.plan.inputs import EXPECTED_DATA
from recognition.training.build import build_parts, wants_class_sizes
from recognition.training.class_means import start_from_class_means
from recognition.training.cuda_settings import settle_cuda
from recognition.training.interrupts import Stopped, ignore_save_requests
from recognition.training.kept_centers import keep_centers, note_names
from recognition.training.meters import attach_log_files
from recognition.training.preflight import preflight
from recognition.training.run_folder import FolderLock, released
from recognition.training.shortage import shortages_told
from recognition.training.stages import check_stages
from recognition.training.start import (
    find_start,
    hold_folder,
    hold_global_batch,
    hold_products,
    prepare_folder,
    resumes,
)
from recognition.training.teacher import check_teacher, open_teacher
from recognition.training.trainer import Trainer
from recognition.training.wandb_run import require_wandb
from recognition.verification.validators import build_validators
from recognition.work.files import write_text
from recognition.work.revision import find_revision
from recognition.work.system import raise_file_limit

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train, and return the exit status."""
    parser = make_parser("train_v2", __doc__)
    parser.add_argument("config", help="a YAML file, with or without .yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for example optim.lr=0.2")
    parser.add_argument("--check", action="store_true", help="print the plan and stop")
    # What torch.distributed.launch adds; it also sets LOCAL_RANK, which is what counts.
    parser.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--take-over", action="store_true", help="take the run folder from a run of another machine that has crashed"
    )
    # Overrides may come before or after the flags.
    return leave_at_once(lambda: run_command(parser, _run, argv, intermixed=True, report=_tell_launcher))


def _tell_launcher(line: str, err: Exception) -> None:
    """Let torchrun know why this rank ends; what the config or the command line asks for is the same at a restart."""
    report_to_launcher(line, is_final=isinstance(err, ConfigError))


def _run(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.overrides)
    require_wandb(config, os.environ)
    check_stages(config)
    if args.local_rank not in (None, declared_local_rank()):
        raise ConfigError(
            f"--local-rank {args.local_rank}: the environment says LOCAL_RANK={declared_local_rank()}; expected a "
            "launcher that sets both; start with torchrun --nproc_per_node=N train_v2.py CONFIG"
        )
    folder = Path(config.output or Path("work_dirs") / Path(args.config).stem)
    if args.check:
        if declared_rank() == 0:
            _check(config, folder)
        return
    ignore_save_requests()
    raise_file_limit()
    try:
        with join_world(config.device, timeout_s=config.train.timeout_s) as world, shortages_told(world):
            _train(config, world, folder, args)
    except Stopped as stopped:
        logger.warning("%s; resume=true continues from there", stopped)
        raise SystemExit(stopped.status) from None


def _check(config: Config, folder: Path) -> None:
    """Print the plan. It needs no data: it is also made on machines that have none yet."""
    latest = latest_checkpoint(folder / CHECKPOINTS) if config.resume else None
    if latest is not None:
        every = World(rank=0, size=declared_size(), local_rank=0, device=torch.device("cpu"))
        config = hold_global_batch(config, Checkpoint(latest), every)
    inputs = find_inputs(config)
    dataset = open_dataset(config.data, needs_identities=config.head.weight > 0) if inputs.has_data else None
    plan = _plan(config, dataset, declared_size(), planned_device(config.device))
    if config.init_from:
        check_weights(Path(config.init_from), Architecture.of(config.backbone, config.data.image_size))
    if dataset is not None:
        check_teacher(config, dataset)
    device = choose_device("cpu" if config.device == "cpu" else "auto")  # a plan for GPUs is made anywhere
    ranks_here = declared_local_size()
    timing = measure_timing(plan, dataset, device, ranks_here=ranks_here) if takes_a_moment(plan, device) else None
    print(render_plan(plan, inputs, timing))


def _train(config: Config, world: World, folder: Path, args: argparse.Namespace) -> None:
    lock = hold_folder(folder, world, take_over=args.take_over)
    with released(lock):
        is_resumed = resumes(folder, config, world)
        attach_log_files(folder, rank=world.rank, is_main=world.is_main, quiet=args.quiet)
        checkpoint = None
        if is_resumed:
            config, checkpoint = find_start(folder, dataclasses.replace(config, resume=True), world)
        prepare_folder(folder, world, is_resumed=is_resumed)
        config = hold_products(config, checkpoint, world)
        settle_cuda(config.train, world.device)
        trainer = _trainer(config, world, folder, args, checkpoint=checkpoint, lock=lock)
        trainer.fit()


def _trainer(
    config: Config,
    world: World,
    folder: Path,
    args: argparse.Namespace,
    *,
    checkpoint: Checkpoint | None,
    lock: FolderLock | None,
) -> Trainer:
    """Open the data, print the plan, and build what is trained, from its start or from the checkpoint."""
    inputs = find_inputs(config)
    dataset = preflight(config, world)
    plan = _plan(config, dataset, world.size, world.device.type)
    logger.info("%s", render_plan(plan, inputs))
    validators = build_validators(config, world, quiet=args.quiet)
    teacher = open_teacher(config, dataset, world, folder, quiet=args.quiet)
    sizes = None
    if wants_class_sizes(config.head):
        sizes = torch.from_numpy(np.bincount(dataset.labels(), minlength=dataset.num_classes))
    parts = build_parts(config, dataset.num_classes, world, teacher, sizes)
    if config.head.init != "random" and checkpoint is None:
        kept = keep_centers(parts, dataset, config, world) if config.head.init == "keep" else None
        start_from_class_means(parts, dataset, config, world, folder, kept=kept, quiet=args.quiet)
    loader = build_loader(config, dataset, world, folder)
    _write_config(folder, config, world)
    note_names(folder, dataset, world)
    return Trainer(plan, parts, loader, world=world, folder=folder, validators=validators, start=checkpoint, lock=lock)


def _plan(config: Config, dataset: Dataset | None, world_size: int, device: str) -> Plan:
    num_images = len(dataset) if dataset is not None else config.data.num_image
    num_classes = dataset.num_classes if dataset is not None else config.data.num_classes
    if num_images is None or num_classes is None:
        raise ConfigError(
            f"data.rec: {config.data.rec!r} is absent and the config states no sizes; expected {EXPECTED_DATA}; "
            "correct it, or set data.num_classes and data.num_image to plan without the data"
        )
    num_used = None if dataset is None else dataset.num_used
    return make_plan(
        config,
        world_size=world_size,
        num_images=num_images,
        num_classes=num_classes,
        num_used=num_used,
        device=device,
    )


def _write_config(folder: Path, config: Config, world: World) -> None:
    """Write the resolved config on rank 0. Raises DataError on all ranks; a resumed run, which has one, is warned."""

    def write() -> None:
        try:
            if world.is_main:
                write_text(folder / RUN_CONFIG, _provenance() + dump_config(config))
        except DataError as err:
            if not config.resume:
                raise
            logger.warning("%s; the one of the earlier start stays", err)

    together(write, world)


def _provenance() -> str:
    return (
        f"# command: {shlex.join(sys.argv)}\n"
        f"# revision: {find_revision()}\n"
        f"# versions: python {sys.version.split()[0]}, torch {torch.__version__}\n"
    )
