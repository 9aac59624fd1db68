"""Write a packed image set: records, index, list and property, in the layouts the field's readers expect."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from recognition.errors import DataError
from recognition.formats.class_names import names_path
from recognition.formats.digests import digests_path, write_digest
from recognition.formats.layouts import LAYOUTS
from recognition.formats.recordio import RecordWriter, pack_image
from recognition.formats.text_lines import refuse_unlistable
from recognition.work.file_set import FileSet, staged_set


class ImageSetWriter:
    """Append images to the open files of a set; `finish` must be called after the last one.

    `layout` is a name of LAYOUTS, which says how keys are counted, what the images need, and what follows them.
    `digests` gets a checksum of every record.
    """

    def __init__(
        self, rec: BinaryIO, idx: BinaryIO, lst: BinaryIO, *, layout: str, digests: BinaryIO | None = None
    ) -> None:
        self._digests = digests
        self._records = RecordWriter(rec, idx)
        self._lst = lst
        self._layout = LAYOUTS[layout]()
        self._first_key = self._next_key = self._layout.first_key
        self._starts: list[int] = []  # the key of each identity's first image
        self._labels: set[int] = set()
        self._last_label = -1

    @property
    def num_images(self) -> int:
        return self._next_key - self._first_key

    @property
    def num_identities(self) -> int:
        return len(self._labels)

    @property
    def num_classes(self) -> int:
        """The highest label plus one; more than num_identities when labels are left out."""
        return self._last_label + 1

    def add(self, label: int, image: bytes, name: str, extra: tuple[float, ...] = ()) -> None:
        """Append one image; `name` is its path in the .lst, `extra` the labels after the first, if the layout keeps
        them.

        Raises DataError when the order of a sorted layout is broken, and for a name that no .lst can hold.
        """
        refuse_unlistable(name)
        key = self._next_key
        if label not in self._labels:
            if self._layout.is_sorted and label < self._last_label:
                raise DataError(f"{name}: label {label} after {self._last_label}; this layout needs rising labels")
            self._labels.add(label)
            self._starts.append(key)
        elif self._layout.is_sorted and label != self._last_label:
            raise DataError(f"{name}: label {label} again after {self._last_label}; keep its images together")
        self._last_label = max(label, self._last_label)
        self._write(key, self._payload(label, image, key, extra))
        self._lst.write(b"%d\t%d\t%s\n" % (key, label, name.encode("utf-8", "surrogateescape")))
        self._next_key += 1

    def _payload(self, label: int, image: bytes, key: int, extra: tuple[float, ...]) -> bytes:
        return pack_image(label, image, record_id=key, extra=extra if self._layout.keeps_lists else None)

    def finish(self) -> None:
        """Append what follows the images."""
        for key, payload in self._layout.after_images(self._starts, self._next_key):
            self._write(key, payload)

    def _write(self, key: int, payload: bytes) -> None:
        self._records.write(key, payload)
        if self._digests is not None:
            write_digest(self._digests, key, payload)


def output_paths(text: str) -> tuple[Path, Path, Path, Path]:
    """Return the paths of the .rec, .idx, .lst and property files that PREFIX means."""
    prefix = Path(text)
    if prefix.is_dir() or text.endswith("/"):
        prefix = prefix / "train"
    elif prefix.suffix == ".rec":
        prefix = prefix.with_suffix("")
    rec, idx, lst = (prefix.with_name(prefix.name + suffix) for suffix in (".rec", ".idx", ".lst"))
    return rec, idx, lst, prefix.with_name("property")


@contextlib.contextmanager
def staged_image_set(
    outputs: tuple[Path, Path, Path, Path],
    *,
    overwrite: bool,
    with_list: bool = True,
    with_property: bool = True,
    with_names: bool = False,
    with_digests: bool = False,
) -> Iterator[FileSet]:
    """Yield where to write the files of a set that are `outputs`, then the names of its people and its checksums, if
    asked for.

    They are published together, as `staged_set` says. What a set comes without it does not keep of an earlier one.
    """
    rec, idx, lst, prop = outputs
    wanted = {rec: True, idx: True, lst: with_list, prop: with_property}
    wanted |= {names_path(rec): with_names, digests_path(rec): with_digests}
    stale = [path for path, is_wanted in wanted.items() if not is_wanted]
    if prop in stale and any(path != rec for path in rec.parent.glob("*.rec")):
        stale.remove(prop)  # another set's: a folder has one
    targets = [path for path, is_wanted in wanted.items() if is_wanted]
    cache = idx.with_name(f"{idx.name}.cache")
    with staged_set(targets, overwrite=overwrite, stale=stale, derived=[cache]) as files:
        yield files


def property_text(num_classes: int, height: int, width: int) -> str:
    """Return the content of a `property` file."""
    return f"{num_classes},{height},{width}\n"
