"""Cut faces out of photos by a table of boxes or landmarks, such as VGGFace2's.

python data_tools/crop_boxes.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.crop_boxes import main

if __name__ == "__main__":
    sys.exit(main())
