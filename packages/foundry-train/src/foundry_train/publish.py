"""Publish a checkpoint so that, whatever happens and whenever, it is there whole or not there at all.

    1 room       free space for all of it, before anything is touched
    2 write      into `.tmp-<step>-<id>`: each file new, allocated, written, synced, closed
    3 manifest   last of all files, with the hash of each
    4 sync       the folders inside
    5 rename     to `step-<step>`, a name that does not exist
    6 sync       `checkpoints/`: now, and not before, the save has happened

An error of the disk throws the unfinished folder away and everything is written once more from memory to new files
(after a failed fsync the old ones cannot be trusted); a full or read-only disk is not asked twice.
"""

import contextlib
import errno
import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from foundry_config.errors import StorageError
from foundry_data import fs
from foundry_train.checkpoint_names import fresh_path, step_path
from foundry_train.manifest import MANIFEST_NAME, FileEntry
from foundry_train.side_work import start_beside
from foundry_train.space import free_bytes, gigabytes, storage_error

logger = logging.getLogger(__name__)

_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


class FileContent(NamedTuple):
    """A file to be written; its chunks can be asked for more than once, and at the same time."""

    name: str
    size: int
    """[bytes]"""
    chunks: Callable[[], Iterable[fs.Buffer]]


class Contents(NamedTuple):
    """A checkpoint to be written."""

    size: int
    """Of all files together. [bytes]"""
    files: Callable[[], Iterator[FileContent]]
    """Makes the files in the order in which they are written; a later one may need work that the earlier ones hide."""
    manifest: Callable[[dict[str, FileEntry]], bytes]


def publish(checkpoints: Path, step: int, contents: Contents, *, verify: bool = False) -> Path:
    """Write a checkpoint and give it its name; returns its folder.

    Args:
        checkpoints: Parent folder; made if missing, but in no folder that is itself missing: a run that was moved away
            would come to life again.
        step: Its number; if `step-<step>` exists it is replaced, and at no moment are both gone.
        contents: What to write.
        verify: Read everything back and compare before the rename.

    Raises:
        StorageError: The disk failed twice, or is full or read-only; nothing unfinished is left.
    """
    temporary = write_folder(checkpoints, step, contents, verify=verify)
    target = step_path(checkpoints, step)
    try:
        _give_name(temporary, target, step)
    except OSError as error:
        discard(temporary)
        raise storage_error(error, target) from error
    return target


def make_folder(path: Path) -> None:
    """Make a folder and its parents, durably.

    Raises:
        StorageError: The disk refuses.
    """
    try:
        fs.make_directories(path)
    except OSError as error:
        raise storage_error(error, path) from error


def write_folder(checkpoints: Path, step: int, contents: Contents, *, verify: bool = False) -> Path:
    """Do all of `publish` but the rename; returns the folder with the temporary name. Raises as `publish` does."""
    try:
        if not checkpoints.is_dir():
            fs.backend().mkdir(checkpoints)
            fs.backend().fsync_directory(checkpoints.parent)
    except OSError as error:
        raise storage_error(error, checkpoints) from error
    check_room(checkpoints, contents.size)
    try:
        return _write_folder(checkpoints, step, contents, verify)
    except OSError as error:
        if error.errno in _LASTING or isinstance(error, StorageError):
            raise storage_error(error, checkpoints, needed=contents.size) from error
        logger.warning("saving step %d failed (%s); writing it again to new files", step, error.strerror or error)
    try:
        return _write_folder(checkpoints, step, contents, verify)
    except OSError as error:
        raise storage_error(error, checkpoints, needed=contents.size) from error


def check_room(checkpoints: Path, size: int) -> None:
    """Check that `size` bytes fit on the volume.

    Raises:
        StorageError: They do not.
    """
    free = free_bytes(checkpoints)
    if size > free:
        raise StorageError(
            f"no room for a checkpoint in {checkpoints}: {gigabytes(size)} needed, {gigabytes(free)} free; "
            "earlier checkpoints are intact"
        )


def discard(folder: Path) -> None:
    """Remove an unfinished folder; what cannot be removed now is removed at the next start."""
    with contextlib.suppress(OSError):
        fs.remove_tree(folder)


def _give_name(temporary: Path, target: Path, step: int) -> None:
    disk, checkpoints = fs.backend(), target.parent
    old = fresh_path(checkpoints, "old", step) if target.exists() else None
    if old:  # a crash before the second rename is repaired by recovery.clean_up, which puts the old one back
        disk.rename(target, old)
        disk.fsync_directory(checkpoints)
    disk.rename(temporary, target)
    disk.fsync_directory(checkpoints)
    if old:
        discard(old)


def _write_folder(checkpoints: Path, step: int, contents: Contents, verify: bool) -> Path:
    temporary = fresh_path(checkpoints, "tmp", step)
    try:
        fs.backend().mkdir(temporary)
        entries = _write_files(temporary, contents.files())
        fs.write_new(temporary / MANIFEST_NAME, [contents.manifest(entries)])
        for folder in sorted({(temporary / name).parent for name in entries} | {temporary}, reverse=True):
            fs.backend().fsync_directory(folder)
        if verify:
            _read_back(temporary, entries)
    except BaseException:
        discard(temporary)
        raise
    return temporary


def _write_files(folder: Path, files: Iterator[FileContent]) -> dict[str, FileEntry]:
    digests: dict[str, Callable[[], str]] = {}
    sizes: dict[str, int] = {}
    for content in files:
        path = folder / content.name
        if path.parent != folder and not path.parent.is_dir():
            fs.backend().mkdir(path.parent)
        digests[content.name] = start_beside(functools.partial(_sha256, content.chunks), size=content.size)
        sizes[content.name] = fs.write_new_unhashed(path, content.chunks(), size=content.size)
    return {name: FileEntry(sizes[name], digest()) for name, digest in digests.items()}


def _sha256(chunks: Callable[[], Iterable[fs.Buffer]]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks():
        digest.update(chunk)
    return digest.hexdigest()


def _read_back(folder: Path, entries: dict[str, FileEntry]) -> None:
    wrong: Sequence[str] = [name for name, entry in entries.items() if fs.sha256_file(folder / name) != entry.sha256]
    if wrong:
        raise OSError(errno.EIO, f"the disk gave back other bytes than were written to {', '.join(wrong)}")
