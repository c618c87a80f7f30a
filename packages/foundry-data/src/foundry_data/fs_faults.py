"""Back ends of `fs` for tests of what runs and stores survive: trace every operation, or make the k-th one go wrong.

    with using(Tracing()) as trace:
        save()
    for at in range(1, len(trace.operations) + 1):
        with using(FaultInjecting(at=at, mode="enospc")):
            save()                       # in a child process where the mode kills

Operations are counted from 1 in the order in which they are called, whatever thread calls them.
"""

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from foundry_data.fs import Backend

T = TypeVar("T")

Mode = Literal["before", "torn", "after", "enospc", "eio"]
"""Kill before the operation; in the middle of a write; after the operation; or let it fail with that error."""


class Operation(NamedTuple):
    """One call, as it reached the disk."""

    name: str
    """The method of `Backend`."""
    path: str
    target: str = ""
    """Second path of `rename`; what a symlink points to."""
    data: bytes = b""
    """What was written."""


class Tracing(Backend):
    """The real disk, writing down every operation that succeeded."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._paths: dict[int, str] = {}
        self._lock = threading.Lock()

    def open_new(self, path: Path) -> int:
        return self._opened("open_new", path, super().open_new(path))

    def open_append(self, path: Path) -> int:
        return self._opened("open_append", path, super().open_append(path))

    def open_lock(self, path: Path) -> int:
        return self._opened("open_lock", path, super().open_lock(path))

    def allocate(self, fd: int, size: int) -> None:
        super().allocate(fd, size)
        self._note(Operation("allocate", self._paths[fd]))

    def write(self, fd: int, data: memoryview) -> int:
        count = super().write(fd, data)
        self._note(Operation("write", self._paths[fd], data=bytes(data[:count])))
        return count

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self._note(Operation("fsync", self._paths[fd]))

    def close(self, fd: int) -> None:
        path = self._paths.pop(fd)
        super().close(fd)
        self._note(Operation("close", path))

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._note(Operation("mkdir", str(path)))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._note(Operation("rename", str(source), str(target)))

    def symlink(self, target: str, path: Path) -> None:
        super().symlink(target, path)
        self._note(Operation("symlink", str(path), target))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._note(Operation("unlink", str(path)))

    def rmdir(self, path: Path) -> None:
        super().rmdir(path)
        self._note(Operation("rmdir", str(path)))

    def truncate(self, path: Path, size: int) -> None:
        super().truncate(path, size)
        self._note(Operation("truncate", str(path), str(size)))

    def fsync_directory(self, path: Path) -> None:
        super().fsync_directory(path)
        self._note(Operation("fsync_directory", str(path)))

    def free_bytes(self, path: Path) -> int:
        free = super().free_bytes(path)
        self._note(Operation("free_bytes", str(path)))
        return free

    def _opened(self, name: str, path: Path, fd: int) -> int:
        self._paths[fd] = str(path)
        self._note(Operation(name, str(path)))
        return fd

    def _note(self, operation: Operation) -> None:
        with self._lock:
            self.operations.append(operation)


class FaultInjecting(Backend):
    """The real disk, with one operation that goes wrong; all others work."""

    def __init__(self, at: int | None, mode: Mode = "before") -> None:
        """Let operation number `at` go wrong in the way of `mode`; None counts only."""
        self.count = 0
        self.names: list[str] = []
        self._at = at
        self._mode = mode
        self._lock = threading.Lock()

    def open_new(self, path: Path) -> int:
        return self._run("open_new", lambda: super(FaultInjecting, self).open_new(path), path)

    def open_append(self, path: Path) -> int:
        return self._run("open_append", lambda: super(FaultInjecting, self).open_append(path), path)

    def open_lock(self, path: Path) -> int:
        return self._run("open_lock", lambda: super(FaultInjecting, self).open_lock(path), path)

    def allocate(self, fd: int, size: int) -> None:
        self._run("allocate", lambda: super(FaultInjecting, self).allocate(fd, size))

    def write(self, fd: int, data: memoryview) -> int:
        def half() -> None:
            super(FaultInjecting, self).write(fd, data[: len(data) // 2])

        return self._run("write", lambda: super(FaultInjecting, self).write(fd, data), tear=half)

    def fsync(self, fd: int) -> None:
        self._run("fsync", lambda: super(FaultInjecting, self).fsync(fd))

    def close(self, fd: int) -> None:
        def really() -> None:
            super(FaultInjecting, self).close(fd)

        self._run("close", really, tear=really)  # the system frees a descriptor even when closing it fails

    def mkdir(self, path: Path) -> None:
        self._run("mkdir", lambda: super(FaultInjecting, self).mkdir(path), path)

    def rename(self, source: Path, target: Path) -> None:
        self._run("rename", lambda: super(FaultInjecting, self).rename(source, target), target)

    def symlink(self, target: str, path: Path) -> None:
        self._run("symlink", lambda: super(FaultInjecting, self).symlink(target, path), path)

    def unlink(self, path: Path) -> None:
        self._run("unlink", lambda: super(FaultInjecting, self).unlink(path), path)

    def rmdir(self, path: Path) -> None:
        self._run("rmdir", lambda: super(FaultInjecting, self).rmdir(path), path)

    def truncate(self, path: Path, size: int) -> None:
        self._run("truncate", lambda: super(FaultInjecting, self).truncate(path, size), path)

    def fsync_directory(self, path: Path) -> None:
        self._run("fsync_directory", lambda: super(FaultInjecting, self).fsync_directory(path), path)

    def free_bytes(self, path: Path) -> int:
        return self._run("free_bytes", lambda: super(FaultInjecting, self).free_bytes(path), path)

    def _run(
        self, name: str, act: Callable[[], T], path: Path | None = None, *, tear: Callable[[], Any] | None = None
    ) -> T:
        """Do `act`, unless its turn to go wrong has come; `tear` does half of it."""
        with self._lock:
            self.count += 1
            self.names.append(name)
            hit = self.count == self._at
        if not hit:
            return act()
        if self._mode == "after":
            act()
            die()
        if self._mode == "before":
            die()
        if tear is not None:
            tear()
        if self._mode == "torn":
            die()
        code = errno.ENOSPC if self._mode == "enospc" else errno.EIO
        raise OSError(code, os.strerror(code), None if path is None else str(path))


def die() -> None:
    """End this process at once, as a crash would: nothing is flushed, no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)
