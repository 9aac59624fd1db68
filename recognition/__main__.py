"""List the commands, or run one of them.

python -m recognition                             every command with its one line
python -m recognition pack_rec faces/ packed/train
torchrun --nproc_per_node=8 -m recognition train configs/ms1mv3_r50
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from recognition import __version__
from recognition.registry import nearest

_ROOM = Path(__file__).resolve().parent / "commands"


def commands() -> dict[str, str]:
    """Return every command's name and the line that says what it is for, sorted; nothing is imported."""
    found = {}
    for path in sorted(_ROOM.glob("*.py")):
        if path.stem != "__init__":
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = doc.partition("\n")[0]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, or list them all; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    known = commands()
    if not words or words[0] in {"-h", "--help", "help", "--version"}:
        sys.stdout.write(f"arcshard {__version__}\n" if words == ["--version"] else _listing(known))
        return 0
    name = words[0].replace("-", "_").removesuffix(".py")
    if name not in known:
        sys.stderr.write(f"arcshard: error: {words[0]}: no such command{nearest(name, known)}\n")
        return 2
    # A run's config.yaml and the plan quote the command that was typed.
    sys.argv = [sys.argv[0], *words]
    status: int = importlib.import_module(f"recognition.commands.{name}").main(words[1:])
    return status


def _listing(known: dict[str, str]) -> str:
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {line}" for name, line in known.items()]
    prog = "arcshard" if Path(sys.argv[0]).name == "arcshard" else "python -m recognition"
    return "\n".join([f"usage: {prog} COMMAND [--help] ...", "", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
