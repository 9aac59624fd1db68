"""A set to be embedded as what the training loader's processes read. Torch-free."""

from __future__ import annotations

import numpy as np

from recognition.embedding.store import ImageSource, read_square


class SetPictures:
    """The images of a set, of one size; the number of each is 0, for whom one shows is not asked."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self.image_size = len(read_square(source, 0))

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Return the image; DataError when it cannot be read, or is not of the first one's size."""
        return read_square(self._source, index, self.image_size), 0
