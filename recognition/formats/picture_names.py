"""Find the pictures that a list names as people and other programs spell them. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path

from recognition.formats.image_list import Folder
from recognition.formats.text_lines import same_accents
from recognition.images.codec import IMAGE_SUFFIXES
from recognition.images.photos import PHOTO_SUFFIXES


class PictureFinder:
    """Finds pictures below a folder, of which each subfolder is listed once.

    LFW's names carry no suffix (and some hold a dot); suffixes differ in case; `align_faces.py` puts .jpg after the
    suffix of a photo that was no JPEG; accents are composed or not.
    """

    def __init__(self, root: Path) -> None:
        self._folder = Folder(root)
        self._root = root
        self._listed: dict[str, dict[str, list[str]]] = {}

    def leads_out(self, name: str) -> bool:
        """Return whether a name leads out of the folder."""
        return self._folder.path(name) is None

    def find(self, name: str) -> Path | None:
        """Return the file that a name means, or None; of several, the one spelled most like it."""
        if (path := self._folder.path(name)) is not None and os.path.isfile(path):
            return Path(path)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        below = ""
        for part in parts[:-1]:
            found = self._entries(below).get(same_accents(part), [])
            below = os.path.join(below, found[0] if found else part)
        for candidate in self._entries(below).get(same_accents(parts[-1]), []) if parts else []:
            path = self._folder.path(os.path.join(below, candidate))
            if path is not None and os.path.isfile(path):
                return Path(path)
        return None

    def _entries(self, below: str) -> dict[str, list[str]]:
        """Return name -> files and folders that it may mean, those that need least guessing first."""
        if below not in self._listed:
            path = self._folder.path(below) if below else str(self._root)
            try:
                names = sorted(os.listdir(path)) if path is not None else []
            except OSError:
                names = []
            entries: dict[str, list[str]] = {}
            for spell in (lambda name: name, _without_suffix, _without_two):
                for name in names:
                    entries.setdefault(same_accents(spell(name)), []).append(name)
            self._listed[below] = entries
        return self._listed[below]


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def _without_two(name: str) -> str:
    """Return a crop's name without .jpg and the suffix of the photo before it."""
    stem, suffix = os.path.splitext(_without_suffix(name))
    return stem if suffix.lower() in PHOTO_SUFFIXES else name
