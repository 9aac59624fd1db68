"""Set people aside for a test: who is trained on, who is not, and verification pairs of those who are not.

python data_tools/hold_out.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.hold_out import main

if __name__ == "__main__":
    sys.exit(main())
