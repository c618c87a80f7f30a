"""The one place through which runs and stores touch the disk: create, write, sync, rename, remove.

Every function goes through the current `Backend`, so that a test can trace each operation, or make the k-th one fail,
tear or kill the process, without root and without knowing who called:

    with using(FaultInjecting(at=17, mode="torn")):
        save_checkpoint()

The rules that make a write survive a power cut, kept by `write_atomic` and by the checkpoint protocol: new files only
(`O_EXCL`), data synced before the rename, the folder synced after it, and an fsync that failed is never repeated on the
same file.
"""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

Buffer = bytes | bytearray | memoryview


class Written(NamedTuple):
    """Size and SHA-256 (64 hexadecimal digits) of a finished file."""

    bytes: int
    sha256: str


class Backend:
    """The real disk. Every method is one operation that can fail; subclasses trace or inject faults."""

    def open_new(self, path: Path) -> int:
        """Create `path`, which must not exist, and return its descriptor; never follows a symlink."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def open_append(self, path: Path) -> int:
        """Open `path` for appending, created if missing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def open_lock(self, path: Path) -> int:
        """Open `path` for locking, created empty if missing; never follows a symlink."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def allocate(self, fd: int, size: int) -> None:
        """Reserve `size` bytes, so that a full disk is known before the first byte."""
        os.posix_fallocate(fd, 0, size)

    def write(self, fd: int, data: memoryview) -> int:
        """Write some of `data`; returns how many bytes were taken."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def rename(self, source: Path, target: Path) -> None:
        """Rename; a file replaces a file, a directory needs a fresh name."""
        source.rename(target)

    def symlink(self, target: str, path: Path) -> None:
        path.symlink_to(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes, in place."""
        os.truncate(path, size)

    def fsync_directory(self, path: Path) -> None:
        """Make the names inside `path` durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: Path) -> int:
        """Bytes that an ordinary user may still write on the volume of `path`."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize


BackendT = TypeVar("BackendT", bound=Backend)

_current: list[Backend] = [Backend()]  # one entry, seen by every thread (asynchronous saves write in one)


def backend() -> Backend:
    """The backend in use."""
    return _current[0]


@contextlib.contextmanager
def using(replacement: BackendT) -> Generator[BackendT]:
    """Route every operation of every thread through `replacement` while the block runs."""
    before = _current[0]
    _current[0] = replacement
    try:
        yield replacement
    finally:
        _current[0] = before


def write_new(path: Path, chunks: Iterable[Buffer], *, size: int = 0) -> Written:
    """Create `path` from `chunks`, synced to disk, hashing while writing.

    Args:
        path: Must not exist.
        chunks: The content, in order.
        size: Exact length if known; reserved before writing.

    Raises:
        FileExistsError: `path` exists.
        OSError: Any error of the disk; the unfinished file is left for the caller to remove.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[Buffer]:
        for chunk in chunks:
            digest.update(chunk)
            yield chunk

    count = write_new_unhashed(path, hashed(), size=size)
    return Written(count, digest.hexdigest())


def write_new_unhashed(path: Path, chunks: Iterable[Buffer], *, size: int = 0) -> int:
    """Do what `write_new` does, for a caller that hashes the same chunks elsewhere; returns the bytes written."""
    disk = backend()
    count = 0
    fd = disk.open_new(path)
    try:
        if size:
            disk.allocate(fd, size)
        for chunk in chunks:
            count += _write_all(disk, fd, chunk)
        disk.fsync(fd)
    finally:
        disk.close(fd)
    return count


def write_atomic(path: Path, data: Buffer) -> Written:
    """Replace `path` by `data` so that, whatever happens, the old or the new content is there, whole."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        written = write_new(temporary, [data])
        backend().rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    backend().fsync_directory(path.parent)
    return written


def append_line(path: Path, line: Buffer) -> None:
    """Append one whole line (its line break included) in a single write; not synced."""
    disk = backend()
    fd = disk.open_append(path)
    try:
        _write_all(disk, fd, line)
    finally:
        disk.close(fd)


def append_durable_line(path: Path, line: Buffer) -> None:
    """Append one whole line and make it durable."""
    disk = backend()
    fd = disk.open_append(path)
    try:
        _write_all(disk, fd, line)
        disk.fsync(fd)
    finally:
        disk.close(fd)


def sync_file(path: Path) -> None:
    """Make durable what was appended to `path`."""
    disk = backend()
    fd = disk.open_append(path)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def make_directories(path: Path) -> None:
    """Create `path` and its missing parents, each made durable in its parent."""
    if path.is_dir():
        return
    make_directories(path.parent)
    with contextlib.suppress(FileExistsError):
        backend().mkdir(path)
    backend().fsync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory and all below it, without following symlinks."""
    disk = backend()
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            disk.unlink(entry)
    disk.rmdir(path)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_all(disk: Backend, fd: int, data: Buffer) -> int:
    """Write all of `data`, however little the disk takes at a time."""
    view = memoryview(data).cast("B")
    size = len(view)
    while len(view):
        view = view[disk.write(fd, view) :]
    return size
