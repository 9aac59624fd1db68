"""Check a packed image set: index and records agree, labels are in range, every image decodes.

python data_tools/check_rec.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.check_rec import main

if __name__ == "__main__":
    sys.exit(main())
