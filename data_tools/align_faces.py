"""Detect the faces of photos and align them onto the ArcFace template.

python data_tools/align_faces.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.align_faces import main

if __name__ == "__main__":
    sys.exit(main())
