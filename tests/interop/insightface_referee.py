"""Runs under insightface's own Python: its ArcFaceONNX reads a file and embeds pictures, [n, S, S, 3] BGR in an .npy.

Nothing of this project is imported. Arguments: MODEL.onnx IMAGES.npy OUT.npy; prints the scale that the loader chose.
"""

import json
import sys

import numpy as np
from insightface.model_zoo.arcface_onnx import ArcFaceONNX

if __name__ == "__main__":
    loader = ArcFaceONNX(sys.argv[1])
    np.save(sys.argv[3], loader.get_feat(list(np.load(sys.argv[2]))))
    print(json.dumps([loader.input_mean, loader.input_std, list(loader.input_size)]))
