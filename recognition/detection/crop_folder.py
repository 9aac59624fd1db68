"""A folder of crops with a line for each photo, filled by a command that may be killed at any moment. Torch-free."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from recognition.errors import DataError
from recognition.work.files import writing
from recognition.work.journal import JOURNAL, Journal
from recognition.work.work_folder import WorkFolder


@dataclass(frozen=True)
class CropFolder:
    """`<name>.jsonl` and perhaps `<name>.json` beside the crops, and `.<name>` with what is under way.

    Crops come to their places one by one, what is listed comes last, and `.<name>` goes when all is there.
    """

    output: Path
    name: str

    @property
    def work(self) -> WorkFolder:
        """What is under way, and the two files that are published at the end."""
        return WorkFolder(self.output, f".{self.name}", (f"{self.name}.json", f"{self.name}.jsonl"), "crops")

    @property
    def staging(self) -> Path:
        """The folder for crops not yet whole."""
        return self.work.staging

    @property
    def records(self) -> Path:
        """The list of the crops."""
        return self.output / f"{self.name}.jsonl"

    def check(self, crops: Iterable[str], *, overwrite: bool) -> None:
        """Raise DataError when the folder is finished or holds something else, or a crop would lie upon its files."""
        own = {self.work.name, *self.work.products}
        hidden = next((crop for crop in crops if crop.split("/")[0] in own), None)
        if hidden is not None:
            raise DataError(f"{hidden}: would lie upon this command's own files; expected another name; rename it")
        self.work.check(overwrite=overwrite)

    @contextlib.contextmanager
    def journal(self, settings: Mapping[str, Any], crops: Iterable[str], *, overwrite: bool) -> Iterator[Journal]:
        """Open the journal of the work, to begin or to continue it; `check` comes first.

        `overwrite` removes what earlier runs left before: the crops they list, and those of `crops` (all that this run
        may make) that a killed one had not listed yet.
        """
        if overwrite:
            self.work.clear(partial(self._remove_crops, crops))
        with self.work.hold():
            with writing(self.output):
                self.staging.mkdir(exist_ok=True)
            with contextlib.closing(Journal(self.work.path, settings)) as journal:
                try:
                    yield journal
                except BaseException:
                    # Nothing was done that another run, with other settings perhaps, would have to go around.
                    if not journal.done and [path.name for path in self.output.iterdir()] == [self.work.name]:
                        self.work.give_up()
                    raise

    def publish(
        self,
        journal: Journal,
        about: Mapping[str, Any] | None = None,
        *,
        draw: Callable[[Path], None] | None = None,
    ) -> Counter[str]:
        """Write the list, sorted by photo, and `about`; delete what was under way. Return the counts by status.

        `draw` gets the list while the run is still under way: what it makes is made again after a kill.
        """
        described, listed = self.work.products
        with writing(self.output, "check space and start again"):
            if about is not None:
                (self.work.path / described).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            with open(self.work.path / listed, "w", encoding="utf-8") as handle:
                totals = _write_records(handle, journal)
        if draw is not None:
            draw(self.work.path / listed)
        self.work.publish([listed] if about is None else [described, listed])
        return totals

    def _remove_crops(self, crops: Iterable[str]) -> None:
        """Remove the crops of earlier runs, before the lists of them."""
        for name in chain(_listed(self.work.path / JOURNAL), crops, _listed(self.records)):
            self._remove(name)

    def _remove(self, name: str) -> None:
        """Remove a crop, and the folders that are empty without it. A list may come from anywhere: only below OUT."""
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            return
        with contextlib.suppress(OSError, ValueError):
            (self.output / path).unlink(missing_ok=True)
            for folder in path.parents:
                if folder != Path():
                    (self.output / folder).rmdir()


def _write_records(handle: TextIO, journal: Journal) -> Counter[str]:
    totals: Counter[str] = Counter()
    for record in journal.records():
        totals[record["status"]] += 1
        totals["crops"] += len(_crops_of(record))
        handle.write(json.dumps({"photo": record.pop("key"), **record}) + "\n")
    return totals


def _listed(path: Path) -> Iterator[str]:
    """Yield the crops that the lines of a file name; what is no such line names none."""
    with contextlib.suppress(OSError), open(path, "rb") as handle:
        for line in handle:
            with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError, KeyError):
                yield from _crops_of(json.loads(line))


def _crops_of(record: Mapping[str, Any]) -> list[str]:
    return [str(item["crop"]) for item in (record, *record.get("faces", ())) if "crop" in item]
