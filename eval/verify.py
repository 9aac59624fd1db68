"""Verify a model on pairs of faces: 10-fold accuracy, thresholds, TAR at FAR, AUC and EER, with their intervals.

python eval/verify.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.verify import main

if __name__ == "__main__":
    sys.exit(main())
