"""Unpack a packed image set into a folder of identities, every image byte for byte.

python data_tools/unpack_rec.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.unpack_rec import main

if __name__ == "__main__":
    sys.exit(main())
