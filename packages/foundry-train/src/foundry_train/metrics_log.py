"""`metrics.jsonl`: one JSON line per record, never doubled by a resume, and never in the way of the training.

A disk that is full for a while costs nothing: lines wait in memory and are written with the next one. A line is either
whole or cut off again. After a crash the file is cut behind the last step of the checkpoint that the run goes on from.
"""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foundry_config.spoken_numbers import speakable
from foundry_data import fs

logger = logging.getLogger(__name__)

_MAX_WAITING = 100_000  # lines; about 30 MB


class MetricsLog:
    """Append-only file of records; the only writer is the holder of the run's lock, with any of its threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[bytes] = []
        self._size: int | None = None  # bytes of whole lines; None: not known yet
        self._may_be_torn = True  # at the end of the file, by a crash or by a write that failed
        self._failing = False
        self._lock = threading.RLock()  # a save in its thread makes lines durable while the loop adds some

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; numbers that are not finite become the texts "nan", "inf" and "-inf"."""
        line = json.dumps(speakable(record), separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        with self._lock:
            self._waiting.append(line.encode("utf-8", "backslashreplace") + b"\n")
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait; a disk that refuses is warned about once, until it works again."""
        with self._lock:
            if self._waiting:
                self._write_waiting()

    def _write_waiting(self) -> None:
        try:
            self._repair()
            data = b"".join(self._waiting)
            fs.append_line(self.path, data)
        except OSError as error:
            self._may_be_torn = True
            if not self._failing:
                logger.warning(
                    "%s cannot be written (%s); lines are kept in memory", self.path, error.strerror or error
                )
            self._failing = True
            del self._waiting[:-_MAX_WAITING]
            return
        self._size = (self._size or 0) + len(data)
        self._waiting.clear()
        self._failing = False

    def sync(self) -> None:
        """Make all lines durable.

        Raises:
            OSError: The disk refuses.
        """
        self.flush()
        if self.path.exists():
            fs.sync_file(self.path)

    def truncate_after(self, step: int) -> None:
        """Cut off the records of steps after `step`, and whatever a crash left of a line.

        Raises:
            OSError: The file cannot be read or cut.
        """
        with self._lock:
            self._truncate_after(step)

    def _truncate_after(self, step: int) -> None:
        keep = _bytes_up_to(self.path, step)
        if keep is not None:
            if keep != self.path.stat().st_size:
                fs.backend().truncate(self.path, keep)
            self._size, self._may_be_torn = keep, False

    def _repair(self) -> None:
        """Before the first line, and after a failed one: cut the file back to whole lines."""
        if not self._may_be_torn:
            return
        there = self.path.stat().st_size if self.path.exists() else 0
        keep = self._size if self._size is not None else _whole_lines(self.path)
        if keep < there:
            fs.backend().truncate(self.path, keep)
        self._size = min(keep, there)
        self._may_be_torn = False


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, without a torn last line; none if the file does not exist."""
    if not path.exists():
        return []
    return [record for _, record in read_numbered(path) if record is not None]


def read_numbered(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield every whole line with its number, counted from 1, as a record; None where it is none.

    Raises:
        OSError: The file cannot be read.
    """
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        yield number, _parse(line)


def _bytes_up_to(path: Path, step: int) -> int | None:
    """Bytes before the first record after `step` or the first broken line; None if there is no file."""
    if not path.exists():
        return None
    keep = 0
    with path.open("rb") as file:
        for line in file:
            record = _parse(line) if line.endswith(b"\n") else None
            if record is None or _step_of(record) > step:
                break
            keep += len(line)
    return keep


def _whole_lines(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


def _step_of(record: Mapping[str, Any]) -> int:
    step = record.get("step")
    return step if isinstance(step, int) else -1


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
