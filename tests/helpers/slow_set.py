"""A data set that answers late."""

import os
import time

import numpy as np

from recognition.feed.bad_records import Origin


class Slow:
    """Stands in for a data set on a disk that answers late, and lets a test see who reads."""

    num_classes = 1
    image_size = 2

    def __init__(self, delay_s=0.0, stuck_at=None):
        self.delay_s = delay_s
        self.stuck_at = stuck_at

    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep(60 if index == self.stuck_at else self.delay_s)
        return np.full((2, 2, 3), os.getpid() % 256, np.uint8), os.getpid()

    def place(self, index):
        return f"slow image {index}"

    def origin(self, index):
        return Origin("slow", index, index)

    def read_ahead(self, spans):
        pass
