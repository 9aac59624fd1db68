"""Draw verification pairs from a folder of identities, in LFW's fold layout.

python data_tools/make_pairs.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.make_pairs import main

if __name__ == "__main__":
    sys.exit(main())
