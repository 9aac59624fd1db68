"""Take the pictures out of a verification .bin, with the list of its pairs.

python data_tools/unpack_bin.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.unpack_bin import main

if __name__ == "__main__":
    sys.exit(main())
