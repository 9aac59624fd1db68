"""Convert a config of arcface_torch to a config of ArcShard, key by key.

    python -m recognition from_arcface_torch configs/ms1mv3_r50.py ms1mv3_r50.yaml

OLD.py is parsed, never executed. Keys without a counterpart are listed with the reason, here and at the top of
NEW.yaml.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from recognition.cli import make_parser, run_command
from recognition.config.arcface_keys import COUNTERPARTS
from recognition.console import count
from recognition.migrate.from_arcface_torch import convert, to_yaml
from recognition.migrate.python_config import read_python_config
from recognition.work.files import refuse_existing, write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file and return the exit status."""
    parser = make_parser("from_arcface_torch", __doc__)
    parser.add_argument("old", type=Path, metavar="OLD.py", help="a config of arcface_torch")
    parser.add_argument("new", type=Path, metavar="NEW.yaml", help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace NEW.yaml")
    return run_command(parser, _run, argv)


def _run(args: argparse.Namespace) -> None:
    refuse_existing(args.new, overwrite=args.overwrite)
    settings = read_python_config(args.old)
    conversion = convert(settings, str(args.old))
    write_text(args.new, to_yaml(conversion, args.old.name))
    for note in conversion.notes:
        print(f"note: {note}")
    converted = sum(key in COUNTERPARTS for key in settings)
    print(
        f"wrote {args.new}: {count(converted, 'setting')} converted, {len(settings) - converted} without counterpart, "
        f"{count(len(conversion.notes), 'note')}"
    )
