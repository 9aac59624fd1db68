"""The images below a folder: at any depth, each of the identity whose folder is the first one below the root.

This is the one place that decides it, for every command. Links to folders are followed, but none that leads back to a
folder above it. What is passed over is counted and named in one line. Torch-free.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

from recognition.console import count
from recognition.errors import DataError
from recognition.images.codec import IMAGE_SUFFIXES, begins_as_image
from recognition.work.work_folder import check_finished

logger = logging.getLogger(__name__)

_MAX_NAMED = 5  # suffixes and folders that a message names; the rest are counted
_NOTES = frozenset({".csv", ".json", ".jsonl", ".lst", ".md", ".tsv", ".txt"})
"""What commands and people write beside pictures: passing over these alone is no reason for a warning."""
_FileId = tuple[int, int]


@dataclass
class PassedOver:
    """What a walk met and did not take."""

    files: Counter[str] = field(default_factory=Counter)
    """Suffix in lower case, or "" -> number of files that are no images."""
    num_hidden: int = 0
    """Names beginning with a dot."""
    num_links: int = 0
    """Links to a folder that lies above them, or whose images the identity has already."""


class ImageTree:
    """The images below `root`: files whose names end in one of `suffixes`, in any case, whatever they hold,
    and files without a suffix that begin as a JPEG or PNG does.

    The first folder below the root is the identity of all that lies in it, however deep; a folder without an image is
    none. Images in the root itself are of no identity: they count where there are no identities (`is_flat`), and are
    passed over otherwise. With `keeps_names` all names are held from the start; without, an identity's are listed again
    when they are asked for, and memory stays small for tens of millions.
    Raises DataError when `root` is no folder, or a folder cannot be read.
    """

    def __init__(self, root: Path, suffixes: Collection[str] = IMAGE_SUFFIXES, *, keeps_names: bool = False) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: is not a folder; expected a folder of images; check the path")
        check_finished(root)
        self.root = root
        self.identities: list[str] = []
        """Names of the folders with an image in or below them, sorted."""
        self.without_image: dict[str, Counter[str]] = {}
        """The other folders -> the files that are below them, by suffix."""
        self._suffixes = frozenset(suffixes)
        self._above = _ids_above(root)
        self._passed_over = PassedOver()
        self._num_images = self._num_deep = 0
        self._kept: list[str] | None = [] if keeps_names else None
        for folder in identity_folders(root):
            self._count(folder)
        self._loose = self._list_root()
        self.is_flat = not self.identities

    def __len__(self) -> int:
        return len(self._loose) if self.is_flat else self._num_images

    def names(self) -> list[str]:
        """Return the paths of all images below the root, with / between the parts, sorted as text."""
        if self.is_flat:
            return self._loose
        if self._kept is not None:
            return sorted(self._kept)
        return sorted(f"{identity}/{name}" for identity in self.identities for name in self.images_of(identity))

    def images_of(self, identity: str) -> list[str]:
        """Return the sorted paths of an identity's images below its folder."""
        return sorted(self._walk(identity, PassedOver()))

    def log_passed_over(self) -> None:
        """Say in one line what was passed over, and in another when no identity holds a picture itself."""
        if line := self._describe():
            is_plain = not (self.without_image or self._passed_over.num_links or self._num_misplaced)
            level = logging.INFO if is_plain and set(self._passed_over.files) <= _NOTES else logging.WARNING
            logger.log(level, "%s: passed over %s", self.root, line)
        if self.identities and self._num_deep == self._num_images:
            logger.warning(
                "%s: all images lie two folders deep or more; taken as identities: %s; if people are the folders "
                "below them, give one of these folders instead",
                self.root,
                _shortened(self.identities),
            )

    def refusal(self, expected: str, todo: str) -> DataError:
        """Return the error of a folder that holds no such images as are `expected`, with what it does hold."""
        has_not = "no folder with an image" if self.is_flat and self._loose else "no image"
        has = [f"{count(len(self._loose), 'image')} of no identity"] if self.is_flat and self._loose else []
        if num_others := self._passed_over.files.total():
            has.append(f"{count(num_others, 'other file')}: {spell_suffixes(self._passed_over.files)}")
        found = f"{has_not}, but {' and '.join(has)}" if has else has_not
        return DataError(f"{self.root}: holds {found}; expected {expected}; {todo}")

    @property
    def _num_misplaced(self) -> int:
        """How many images lie beside the folders of identities."""
        return 0 if self.is_flat else len(self._loose)

    def _count(self, folder: str) -> None:
        here = PassedOver()
        num_before = self._num_images
        for name in self._walk(folder, here):
            self._num_images += 1
            self._num_deep += "/" in name
            if self._kept is not None:
                self._kept.append(f"{folder}/{name}")
        if self._num_images > num_before:
            self.identities.append(folder)
        elif not (here.num_links and not here.files):
            self.without_image[folder] = here.files
        self._passed_over.files += here.files
        self._passed_over.num_hidden += here.num_hidden
        self._passed_over.num_links += here.num_links

    def _walk(self, folder: str, passed: PassedOver) -> Iterator[str]:
        return _walk(os.path.join(self.root, folder), self._above, self._suffixes, passed)

    def _list_root(self) -> list[str]:
        images = []
        for entry in entries(self.root):
            if entry.name.startswith("."):
                self._passed_over.num_hidden += 1
            elif not _is_folder(entry):
                suffix = _suffix(entry.name)
                if _is_image(entry, self._suffixes):
                    images.append(entry.name)
                else:
                    self._passed_over.files[suffix] += 1
        return sorted(images)

    def _describe(self) -> str:
        parts = []
        passed = self._passed_over
        files = passed.files + (Counter() if self.is_flat else Counter(_suffix(name) for name in self._loose))
        if files:
            parts.append(f"{count(files.total(), 'file')}: {spell_suffixes(files)}")
        if self._num_misplaced:
            parts[0] += f", with {count(self._num_misplaced, 'image')} beside the folders of identities"
        if self.without_image:
            named = _shortened(list(self.without_image))
            parts.append(f"{count(len(self.without_image), 'folder')} without an image ({named})")
        if passed.num_links:
            parts.append(f"{count(passed.num_links, 'link')} to a folder above or already taken")
        if passed.num_hidden:
            parts.append(f"{count(passed.num_hidden, 'name')} beginning with a dot")
        return "; ".join(parts)


def identity_folders(root: Path) -> list[str]:
    """Return the sorted names of the folders in `root`, and of links to folders, but hidden ones."""
    return sorted(entry.name for entry in entries(root) if entry.name[0] != "." and _is_folder(entry))


def identity_of(name: str) -> str:
    """Return the identity of an image by its path below the root; "" for one in the root itself."""
    return name.partition("/")[0] if "/" in name else ""


def has_suffix(name: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Return whether a name ends in one of `suffixes`, in any case: whether the file is an image by its name."""
    return _suffix(name) in suffixes


def entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield what lies in a folder; DataError when it cannot be read."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as err:
        raise _unreadable(folder, err) from err


def spell_suffixes(files: Counter[str]) -> str:
    """Return `.heic 3, .mp4 2`, the most frequent first."""
    ordered = sorted(files.items(), key=lambda item: (-item[1], item[0]))
    return _shortened([f"{suffix or 'without suffix'} {number:,}" for suffix, number in ordered])


def holds_identities(root: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Return whether a folder below `root` holds an image; looks no further than the first one."""
    above = _ids_above(root)
    walks = (_walk(os.path.join(root, name), above, suffixes, PassedOver()) for name in identity_folders(root))
    return any(next(walk, None) is not None for walk in walks)


def holds_images(root: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Return whether an image lies in `root` itself."""
    return any(entry.name[0] != "." and not _is_folder(entry) and _is_image(entry, suffixes) for entry in entries(root))


def _walk(top: str, above: Set[_FileId], suffixes: Collection[str], passed: PassedOver) -> Iterator[str]:
    """Yield the paths of the images in and below `top`, relative to it, and count in `passed` what is none.

    A folder is read once, and those `above` never: its own place in the tree comes before a link to it, and of two
    links the first by name. So links that lead in a circle end, and those to each other do not multiply.
    """
    seen = set(above)
    own, links = [""], list[str]()
    while own or links:
        below = own.pop() if own else heapq.heappop(links)
        here = os.path.join(top, below)
        if (file_id := _file_id(here)) in seen:
            passed.num_links += 1
            continue
        seen.add(file_id)
        for entry in entries(here):
            if entry.name.startswith("."):
                passed.num_hidden += 1
            elif not _is_folder(entry):
                suffix = _suffix(entry.name)
                if _is_image(entry, suffixes):
                    yield below + entry.name
                else:
                    passed.files[suffix] += 1
            elif entry.is_symlink():
                heapq.heappush(links, f"{below}{entry.name}/")
            else:
                own.append(f"{below}{entry.name}/")


def _ids_above(root: Path) -> set[_FileId]:
    """Return `root` and the folders above it: a link to one of them would bring everybody into one identity."""
    real = Path(os.path.realpath(root))
    return {_file_id(folder) for folder in (real, *real.parents)}


def _file_id(folder: str | Path) -> _FileId:
    try:
        status = os.stat(folder)
    except OSError as err:
        raise _unreadable(folder, err) from err
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; as a file, its reader says so
        return False


def _is_image(entry: os.DirEntry[str], suffixes: Collection[str]) -> bool:
    """Return whether a file is taken: by its suffix, or without one when it begins as a JPEG or PNG does."""
    suffix = _suffix(entry.name)
    return suffix in suffixes or (not suffix and begins_as_image(entry.path))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _unreadable(folder: str | Path, err: OSError) -> DataError:
    reason = err.strerror or err
    return DataError(f"{folder}: cannot be read ({reason}); expected a readable folder; fix its permissions")


def _shortened(names: list[str]) -> str:
    rest = len(names) - _MAX_NAMED
    shown = [name if name.isprintable() else ascii(name) for name in names[:_MAX_NAMED]]
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")
