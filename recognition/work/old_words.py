"""Words that older versions wrote into files or took on the command line, and what they are now. Torch-free."""

from __future__ import annotations

_NOW = {"centre": "center", "far_from_centre": "far_from_center"}


def current_word(word: str) -> str:
    """Return what a word of any version is called now; one that was never renamed is itself."""
    return _NOW.get(word, word)
