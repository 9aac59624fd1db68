"""Draw the embedding space of named people: PCA, t-SNE, and the files of TensorBoard's projector with thumbnails.

python eval/plot_embedding.py --help
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library

from recognition.commands.plot_embedding import main

if __name__ == "__main__":
    sys.exit(main())
