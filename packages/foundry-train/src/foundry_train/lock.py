"""One trainer per run directory: a lock that the kernel frees when its process dies, however it dies.

POSIX record locks (`lockf`) belong to the process: a forked data worker that outlives a killed trainer does not keep
them, as it would keep those of `flock`. The price: closing *any* descriptor of the file drops the lock, so the file is
opened once and its content is never read; who holds it is told by `lock.info` beside it.
"""

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from foundry_config.errors import RunLockedError
from foundry_data import fs

LOCK_NAME = "lock"
INFO_NAME = "lock.info"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_held: set[tuple[int, int]] = set()  # device and inode: the kernel does not see a conflict within one process


class RunLock:
    """An exclusive lock on a run directory, held until `release` or the end of the process."""

    def __init__(self, run_dir: Path) -> None:
        """Take the lock.

        Raises:
            RunLockedError: Another trainer holds it; names its process and host.
            OSError: The lock file cannot be opened.
        """
        self._run_dir = run_dir
        path = run_dir / LOCK_NAME
        if path.exists() and _identity(path.stat()) in _held:
            raise RunLockedError(f"{run_dir} is already open in this process; close it first")
        self._fd: int | None = fs.backend().open_lock(path)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self._close()
            raise RunLockedError(_locked_message(run_dir)) from None
        except OSError:
            self._close()
            raise
        self._key = _identity(os.fstat(self._fd))
        _held.add(self._key)
        self._write_info()

    def release(self) -> None:
        """Give the lock back; once is enough, twice does no harm."""
        if self._fd is not None:
            _held.discard(self._key)
            self._close()

    def is_in_place(self) -> bool:
        """Whether the lock file is still the one that was locked; a deleted or replaced one protects nothing."""
        try:
            return _identity((self._run_dir / LOCK_NAME).stat()) == self._key
        except OSError:
            return False

    def _close(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):  # even then the system frees descriptor and lock
                fs.backend().close(self._fd)
            self._fd = None

    def _write_info(self) -> None:
        info = {"pid": os.getpid(), "host": socket.gethostname(), "boot_id": _boot_id(), "start": _start_ticks()}
        with contextlib.suppress(OSError):  # for people only
            fs.write_atomic(self._run_dir / INFO_NAME, json.dumps(info).encode() + b"\n")


def holder(run_dir: Path) -> dict[str, Any]:
    """What `lock.info` says about the last process that took the lock; empty if it says nothing."""
    try:
        info = json.loads((run_dir / INFO_NAME).read_bytes()[:4096])
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def living_holder(run_dir: Path) -> dict[str, Any] | None:
    """What `lock.info` says if its process still lives, as far as can be told from here, without touching the lock.

    A process of another host is taken to live.
    """
    info = holder(run_dir)
    pid = info.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return None
    if info.get("host") != socket.gethostname():
        return info
    if info.get("boot_id") != _boot_id() or info.get("start") != _start_ticks(pid):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass  # another user's
    return info


def _locked_message(run_dir: Path) -> str:
    info = holder(run_dir)
    who = f"process {info.get('pid', 'unknown')} on {info.get('host', 'an unknown host')}"
    return (
        f"{run_dir} is in use by {who}; wait for it, stop it, or choose another training.output_dir "
        "(the lock frees itself when that process ends)"
    )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


def _start_ticks(pid: int | None = None) -> int | None:
    """When a process (this one) started, in clock ticks since boot: tells it from a later one with the same number."""
    try:
        return int(Path(f"/proc/{pid or 'self'}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
