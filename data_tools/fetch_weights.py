"""Fetch MTCNN's weights: three files from the facenet-pytorch 2.6.0 wheel, which is not installed.

python data_tools/fetch_weights.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.fetch_weights import main

if __name__ == "__main__":
    sys.exit(main())
