"""Align photos by a file of five landmarks each, onto the ArcFace template.

python data_tools/align_landmarks.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.align_landmarks import main

if __name__ == "__main__":
    sys.exit(main())
