"""Make a folder once, whole or not at all, however many processes ask for it and whenever one of them dies.

    prepared/
    ├─ train-1f0c5a27bd10/              finished: renamed into place after everything in it was synced
    ├─ .train-9e77c1d00a52.building/    unfinished: taken up again, or emptied, by the next who asks
    └─ .train-9e77c1d00a52.lock         held while somebody builds; the operating system frees it if he dies

A finished folder is never changed, so readers need no lock.
"""

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Generator
from pathlib import Path

from foundry_config.errors import StorageError
from foundry_data import fs
from foundry_data.disk_advice import disk_advice, is_full

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1

_held: set[Path] = set()  # locks of this process: the operating system does not keep two threads apart
_held_guard = threading.Lock()


def building_folder(target: Path) -> Path:
    """Return where `target` is put together."""
    return target.with_name(f".{target.name}.building")


@contextlib.contextmanager
def building_lock(target: Path, *, waiting: Callable[[], None] | None = None) -> Generator[None]:
    """Hold the right to build `target`; wait for it while another process or thread builds.

    Args:
        target: The finished folder, present or not.
        waiting: Called about ten times a second while waiting; what it raises ends the wait.

    Raises:
        StorageError: The lock file cannot be written.
    """
    path = target.with_name(f".{target.name}.lock").absolute()
    with storage_errors(path):
        fs.make_directories(path.parent)
        descriptor = fs.backend().open_lock(path)
    told = False
    try:
        while not _try_lock(path, descriptor):
            if not told:
                logger.info("another process is preparing %s; waiting for it", target)
                told = True
            if waiting is not None:
                waiting()
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            _held.discard(path)
    finally:
        os.close(descriptor)  # frees the lock


def _try_lock(path: Path, descriptor: int) -> bool:
    with _held_guard:
        if path in _held:
            return False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise StorageError(f"cannot lock {path}: {error.strerror}; does this file system support locks?") from error
        _held.add(path)
        return True


def start_building(target: Path) -> Path:
    """Return an empty folder in which to build `target`; hold `building_lock` meanwhile."""
    folder = building_folder(target)
    if folder.exists():
        fs.remove_tree(folder)
    fs.make_directories(folder)
    return folder


def publish(building: Path, target: Path) -> None:
    """Give the finished folder `building` its name; a folder that has this name already is removed.

    All files in `building` must have been synced, as `fs.write_new` and `fs.write_atomic` do.
    """
    disk = fs.backend()
    disk.fsync_directory(building)
    trash = None
    if target.exists():
        trash = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.trash")
        disk.rename(target, trash)
    disk.rename(building, target)
    disk.fsync_directory(target.parent)
    if trash is not None:
        fs.remove_tree(trash)


def remove_trash(folder: Path) -> None:
    """Remove what a process that died had already replaced."""
    for trash in folder.glob(".*.trash"):
        with contextlib.suppress(OSError):  # somebody else may be removing it
            fs.remove_tree(trash)


@contextlib.contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn an error of the disk into a `StorageError` that says which file, why, and what to do."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        place = error.filename or path
        name = errno.errorcode.get(error.errno or 0, "error")
        reason = f"{error.strerror or error} ({name})"
        more = [_room(path) if is_full(error) else "", disk_advice(error, Path(place))]
        raise StorageError("; ".join([f"cannot write {place}: {reason}", *filter(None, more)])) from error


def _room(path: Path) -> str:
    for folder in (path, *path.parents):
        if folder.is_dir():
            return f"{fs.backend().free_bytes(folder):,} bytes are free in {folder}"
    return ""
