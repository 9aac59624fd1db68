"""How a picture that is not whole is told. Torch-free."""

from __future__ import annotations

from recognition.errors import DataError


def damaged(place: str, what: str) -> DataError:
    """Return the error for a picture at `place` that `what` is wrong with, such as "does not decode"."""
    return DataError(f"{place}: the image {what}; expected a whole picture; remove or replace it")
