"""Train a face-recognition model with the class centers sharded over all processes.

python train_v2.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent)  # the root, so that no file here shadows the library

from recognition.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
