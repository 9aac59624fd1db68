"""Convert an image set between the layouts of a .rec, WebDataset shards and folders; images keep their bytes.

python data_tools/convert_rec.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.convert_rec import main

if __name__ == "__main__":
    sys.exit(main())
