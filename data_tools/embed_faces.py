"""Embed aligned faces by a run, weights or ONNX file, or by dlib's network before any model exists.

python data_tools/embed_faces.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.embed_faces import main

if __name__ == "__main__":
    sys.exit(main())
