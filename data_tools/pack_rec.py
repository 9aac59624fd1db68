"""Pack a folder of identities, or the images of a .lst, into PREFIX.rec, .idx, .lst, .names and a property file.

python data_tools/pack_rec.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.pack_rec import main

if __name__ == "__main__":
    sys.exit(main())
