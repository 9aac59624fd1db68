"""Render images of synthetic people, one folder per person, with the true landmarks of every image.

python data_tools/make_faces.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.make_faces import main

if __name__ == "__main__":
    sys.exit(main())
