"""One long stream of numbers that lies in several files of equal length, mapped into memory and read as if in one.

file 0 [0 1 2 3] file 1 [4 5 6 7] file 2 [8 9]

stream.read(2, 6)                    -> [2 3 4 5]
stream.gather([1, 6], length=3)      -> [[1 2 3] [6 7 8]]

A mapped file that somebody truncates is a trap: reading a page that is gone kills the process with SIGBUS, and the rest
of the last page reads as zeros. So the size is asked for again whenever numbers are handed out (0.3 microseconds), and
a file that has changed is named in an ordinary error.
"""

import mmap
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foundry_config.errors import DataError

Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[Any]


class MappedStream:
    """A stream over files that hold `part_length` numbers each, the last one fewer."""

    def __init__(self, paths: Sequence[Path], dtype: np.dtype[Any], part_length: int) -> None:
        self._parts = [MappedFile(path, dtype) for path in paths]
        self._part_length = part_length
        self._dtype = dtype
        self._length = sum(len(part.numbers) for part in self._parts)

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Numbers:
        """Return the numbers of a range; a read-only view where one file holds them all. [stop - start]

        Raises:
            DataError: A file was truncated or grew since it was opened.
            IndexError: The range leaves the stream.
        """
        if not 0 <= start <= stop <= self._length:
            raise IndexError(f"tokens {start} to {stop} are not in a store of {self._length} tokens")
        if start == stop:
            return np.empty(0, dtype=self._dtype)
        size = self._part_length
        first, last = start // size, (stop - 1) // size
        if first == last:
            return self._parts[first].numbers[start - first * size : stop - first * size]
        owners = range(first, last + 1)
        return np.concatenate([self._parts[i].numbers[max(0, start - i * size) : stop - i * size] for i in owners])

    def gather(self, starts: Positions, length: int, *, out: Numbers | None = None) -> Numbers:
        """Return `length` numbers from each of `starts`, as a copy. [B, length]

        Args:
            starts: First places. [B]
            length: Numbers from each.
            out: Memory to copy into. [B, length]

        Raises:
            DataError: A file was truncated or grew since it was opened.
            IndexError: A range leaves the stream.
        """
        if starts.size and (int(starts.min()) < 0 or int(starts.max()) + length > self._length):
            raise IndexError(f"a range of {length} tokens leaves the store of {self._length} tokens")
        if len(self._parts) == 1:
            return self._parts[0].rows(starts, length, out)
        rows = np.empty((len(starts), length), dtype=self._dtype) if out is None else out  # [B, length]
        owners, insides = np.divmod(starts, self._part_length)
        whole = insides + length <= self._part_length
        for owner in sorted({int(owner) for owner in owners[whole]}):
            mine = whole & (owners == owner)
            rows[mine] = self._parts[owner].rows(insides[mine], length, None)
        for row in np.flatnonzero(~whole).tolist():  # a range that lies over the border of two files
            rows[row] = self.read(int(starts[row]), int(starts[row]) + length)
        return rows


class MappedFile:
    """The numbers of a whole file, mapped read-only; an empty one (which cannot be mapped) is an empty array."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._path = path
        self._dtype = dtype
        self._numbers: Numbers = np.empty(0, dtype=dtype)
        self._mapping: mmap.mmap | None = None
        with path.open("rb") as file:
            if path.stat().st_size:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._numbers = np.frombuffer(self._mapping, dtype=dtype)
        self._copy_rows = _named_after(path, _copy_rows)

    @property
    def numbers(self) -> Numbers:
        """All of them, to be used at once: the size of the file is checked now.

        Raises:
            DataError: The file was truncated or grew since it was opened.
        """
        if self._mapping is not None and self._mapping.size() != len(self._mapping):
            raise DataError(
                f"{self._path} was changed while it was in use ({len(self._mapping):,} bytes before, "
                f"{self._mapping.size():,} now); restore it, or run `foundry preprocess --force`"
            )
        return self._numbers

    def rows(self, starts: Positions, length: int, out: Numbers | None) -> Numbers:
        """Return `length` numbers from each of `starts`, as a copy, in `out` if given. [B, length]

        Raises as `numbers` does.
        """
        return self._copy_rows(self.numbers, starts, length, out)

    def __reduce__(self) -> tuple[type["MappedFile"], tuple[Path, np.dtype[Any]]]:
        """Let another process, or a copy, map the file itself."""
        return MappedFile, (self._path, self._dtype)


def _copy_rows(numbers: Numbers, starts: Positions, length: int, out: Numbers | None) -> Numbers:
    places = starts // length
    if len(starts) and bool((places * length == starts).all()):  # rows of one matrix: a plain copy of each
        matrix = numbers[: len(numbers) // length * length].reshape(-1, length)
        return matrix.take(places, axis=0, out=out, mode="clip")  # the caller has checked; `raise` would copy twice
    count = max(0, len(numbers) - length + 1)
    windows = np.ndarray((count, length), numbers.dtype, buffer=numbers, strides=numbers.strides * 2)
    if out is None:
        return windows[starts]
    out[...] = windows[starts]
    return out


def _named_after(path: Path, function: Callable[..., Numbers]) -> Callable[..., Numbers]:
    """Return the function under a name that tells the file.

    Should a file be cut in the very moment between the check and the copy, all that is left of the process is the
    stack that `faulthandler` writes, which has the names of functions and no values.
    """
    code = function.__code__.replace(co_name=f"{function.__name__} of {path.name} in {path.parent}")
    return types.FunctionType(code, function.__globals__)
