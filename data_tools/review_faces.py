"""Make a page on which a person reviews the doubtful decisions of clean_faces.py.

python data_tools/review_faces.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.review_faces import main

if __name__ == "__main__":
    sys.exit(main())
