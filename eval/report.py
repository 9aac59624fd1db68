"""Write a verification report: one HTML page with intervals, curves, hardest pairs, groups and a model card.

python eval/report.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
