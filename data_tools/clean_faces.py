"""Clean a folder of aligned faces: find pictures in the wrong identity, identities that are one, and near duplicates.

python data_tools/clean_faces.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.clean_faces import main

if __name__ == "__main__":
    sys.exit(main())
