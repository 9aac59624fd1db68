"""Put the images of a packed set in random order, in bounded memory.

python data_tools/shuffle_rec.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.shuffle_rec import main

if __name__ == "__main__":
    sys.exit(main())
