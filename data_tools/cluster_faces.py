"""Group the faces of an embedding store into people without names, by Chinese whispers on a similarity graph.

python data_tools/cluster_faces.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.cluster_faces import main

if __name__ == "__main__":
    sys.exit(main())
