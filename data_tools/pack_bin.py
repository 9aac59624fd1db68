"""Pack verification pairs and their images into a .bin, as arcface_torch and insightface read it.

python data_tools/pack_bin.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.pack_bin import main

if __name__ == "__main__":
    sys.exit(main())
