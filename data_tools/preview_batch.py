"""Write a picture of what the network sees: a batch as the trainer would make it, augmented and flipped.

python data_tools/preview_batch.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.preview_batch import main

if __name__ == "__main__":
    sys.exit(main())
