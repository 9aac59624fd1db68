"""Convert the checkpoint of an interrupted arcface_torch run, to continue it on any number of ranks.

    python -m recognition import_arcface_torch OLD_RUN NEW_RUN --config configs/ms1mv3_r50 [KEY=VALUE ...]
    torchrun --nproc_per_node=8 train_v2.py configs/ms1mv3_r50 output=NEW_RUN resume=true

OLD_RUN holds arcface_torch's checkpoint_gpu_<rank>.pt files, all of them. NEW_RUN/checkpoints/ receives backbone,
centers, the momentum of both, and the step. The files are read as data; no code in them runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from recognition.cli import make_parser, run_command
from recognition.config.loader import load_config
from recognition.console import count
from recognition.migrate.import_arcface_torch import import_run


def main(argv: Sequence[str] | None = None) -> int:
    """Import one run and return the exit status."""
    parser = make_parser("import_arcface_torch", __doc__)
    parser.add_argument("old", type=Path, metavar="OLD_RUN", help="folder with checkpoint_gpu_<rank>.pt")
    parser.add_argument("new", type=Path, metavar="NEW_RUN", help="run folder to continue in; may be OLD_RUN")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the config, as for train_v2.py")
    parser.add_argument("--config", required=True, help="the config with which the run continues")
    return run_command(parser, _run, argv, intermixed=True)


def _run(args: argparse.Namespace) -> None:
    config = load_config(args.config, args.overrides)
    path, shards, notes = import_run(args.old, args.new / "checkpoints", config, quiet=args.quiet)
    for note in notes:
        print(f"note: {note}")
    rows = sum(len(shard.centers) for shard in shards)
    print(
        f"imported {count(len(shards), 'shard')}, {rows:,} identities, {count(len(shards[0].backbone), 'tensor')} of "
        f"the backbone at epoch {shards[0].epoch}, step {shards[0].global_step:,}, into {path}"
    )
