"""Small packed sets, written by hand."""

import struct

import cv2
import numpy as np

SIZE = 32


def picture(value, height=SIZE, width=SIZE):
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = value, 255 - value, 7
    return image


def png(rgb):
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def write_rec(prefix, records):
    """Write (label, encoded) pairs as MXNet's sequential layout, by hand."""
    with open(f"{prefix}.rec", "wb") as rec, open(f"{prefix}.idx", "w") as idx:
        for key, (label, encoded) in enumerate(records):
            idx.write(f"{key}\t{rec.tell()}\n")
            payload = struct.pack("<IfQQ", 0, label, key, 0) + encoded
            rec.write(struct.pack("<II", 0xCED7230A, len(payload)) + payload + bytes(-len(payload) % 4))
