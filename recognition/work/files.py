"""Write files so that a reader sees the old one or the whole new one, never a part."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recognition.errors import ArcShardError, DataError
from recognition.work.system import NO_WAIT, lock_file, open_folder

ADVICE = "check space and permissions"


@contextlib.contextmanager
def writing(place: Path, advice: str = ADVICE, *, kind: type[ArcShardError] = DataError) -> Iterator[None]:
    """Turn what the system says when it does not take a write inside into one line: a DataError, or another `kind`."""
    try:
        yield
    except OSError as err:
        raise kind(f"{place}: cannot be written ({err.strerror or err}); {advice}") from err


def refuse_existing(*paths: Path, overwrite: bool) -> None:
    """Raise DataError when one of `paths` exists and `overwrite` is false."""
    for path in paths:
        if path.exists() and not overwrite:
            raise DataError(f"{path}: exists already; expected a new path; pass --overwrite to replace it")


@contextlib.contextmanager
def staged(*targets: Path) -> Iterator[list[Path]]:
    """Yield one temporary path beside each target; rename all onto their targets on success, remove all on error.

    The files are synced before the first rename. What killed writers of the same targets left is removed first. Raises
    DataError when a folder cannot be written.
    """
    made = [folder for target in targets for folder in missing_parents(target)]
    temporaries: list[Path] = []
    try:
        with writing(targets[0]), contextlib.ExitStack() as held:
            for target in targets:
                temporaries.append(_temporary_beside(target, held))
            yield temporaries
            for temporary in temporaries:
                sync_file(temporary)
            for temporary, target in zip(temporaries, targets):
                os.replace(temporary, target)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)
        remove_empty(made)


@contextlib.contextmanager
def staged_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target`; rename it onto the target on success, remove it on error.

    An existing target is refused, or with `replace` removed at the end. What a killed run for the same target left is
    removed first; where that had moved the old folder aside, and nothing to its place, the old one comes back. Raises
    DataError when it cannot be written, and while another run is writing it.
    """
    work = target.with_name(f".{target.name}.part")
    made = missing_parents(work)
    new, old = work / "new", work / "old"
    try:
        with writing(target), held_folder(work, target):
            try:
                if old.exists() and not target.exists():
                    old.rename(target)
                empty_folder(work)
                if target.exists() and not replace:
                    raise DataError(f"{target}: exists already; expected a new folder; choose another one")
                new.mkdir()
                yield new
                if target.exists():
                    target.rename(old)
                new.rename(target)
            finally:
                if old.exists() and not target.exists():
                    old.rename(target)
                shutil.rmtree(work)
    finally:
        remove_empty(made)


@contextlib.contextmanager
def held_folder(folder: Path, target: Path) -> Iterator[None]:
    """Make a folder of temporary files and hold it by a lock; DataError while another process does.

    It may be removed inside.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = open_folder(folder)
        except FileNotFoundError:
            continue  # the one who held it has just removed it
        try:
            if descriptor is not None:
                lock_file(descriptor, wait=False)
            if descriptor is None or _is_same(descriptor, folder):
                yield
                return
        except BlockingIOError as err:
            raise DataError(f"{target}: another run is writing it; expected none; wait for its end") from err
        finally:
            if descriptor is not None:
                os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that killed writers left directly in `folder`; nobody may be writing there now."""
    for stale in folder.glob(".*.part"):
        if stale.is_file():
            stale.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Publish `content` at `path` by rename, replacing what was there."""
    with staged(path) as (temporary,):
        temporary.write_bytes(content)


def write_by_way_of(temporary: Path, target: Path, content: bytes) -> None:
    """Publish `content` at `target` by rename from `temporary`, a name in a folder that holds what a kill may leave.

    Unlike `write_bytes` it does not sync: for many small files that are made again when they are missing.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, target)


def write_in_place(path: Path, content: bytes) -> None:
    """Write `content` to `path` and make the folders above it; a kill may leave a part."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Publish `content` at `path` as UTF-8 by rename, replacing what was there."""
    write_bytes(path, content.encode("utf-8"))


def share_file(path: Path) -> None:
    """Give a file that its library made for its owner alone the permissions the umask allows."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def missing_parents(path: Path) -> list[Path]:
    """Return the folders above `path` that are not there, the innermost first."""
    return [folder for folder in path.parents if not folder.exists()]


def remove_empty(folders: list[Path]) -> None:
    """Remove those of the `folders` that hold nothing: what failed leaves no trace."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _temporary_beside(target: Path, held: contextlib.ExitStack) -> Path:
    """Return a new temporary file beside `target`, claimed by a lock for as long as `held` is open."""
    with writing(target, "choose a writable folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_unclaimed(target)
        while True:
            descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
            handle = held.enter_context(os.fdopen(descriptor, "rb"))
            with contextlib.suppress(BlockingIOError):  # another process has taken it for one that was left
                lock_file(handle, wait=False)
                if _is_same(descriptor, Path(name)):
                    break
    share_file(Path(name))
    return Path(name)


def _remove_unclaimed(target: Path) -> None:
    """Remove the temporary files for `target` whose writers are gone; none where there are no locks to say so."""
    for stale in target.parent.glob(f".{glob.escape(target.name)}.????????.part"):
        with contextlib.suppress(OSError), open(os.open(stale, os.O_RDONLY | NO_WAIT), "rb") as handle:
            if lock_file(handle, wait=False):
                stale.unlink()


def _is_same(descriptor: int, path: Path) -> bool:
    """Return whether `path` still is the file or folder that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def empty_folder(folder: Path, *, keep: str = "") -> None:
    """Remove all that is in a folder, except an entry named `keep`."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != keep:
            os.unlink(entry.path)
