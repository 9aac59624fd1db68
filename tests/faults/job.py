"""train_v2 as torchrun starts it in the fault harness, with the fault that the harness names done from inside.

    torchrun ... tests/faults/job.py CONFIG [KEY=VALUE ...]        as train.py

Only the first start is disturbed: what torchrun starts again is train_v2 as it is.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])  # the root, so that no file here shadows the library

from recognition.commands import train
from tests.faults.inject import inject
from tests.faults.launch import FAULT


def main() -> int:
    """Disturb this process as the environment says, then train."""
    fault = json.loads(os.environ.get(FAULT, "null"))
    is_struck = fault and fault["rank"] in ("all", int(os.environ["RANK"]))
    if is_struck and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        inject(fault)
    return train.main()


if __name__ == "__main__":
    sys.exit(main())
