"""Clean a folder of aligned faces: wrong pictures, identities that are the same person, and near-duplicates.

python data_tools/clean_faces.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.clean_faces import main

if __name__ == "__main__":
    sys.exit(main())
