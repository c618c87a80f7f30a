"""One long stream of numbers that lies in several files of equal length, mapped into memory and read as if in one.

file 0 [0 1 2 3] file 1 [4 5 6 7] file 2 [8 9]

stream.read(2, 6)                    -> [2 3 4 5]
stream.gather([1, 6], length=3)      -> [[1 2 3] [6 7 8]]
"""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
Numbers = npt.NDArray[Any]


class MappedStream:
    """A stream over files that hold `part_length` numbers each, the last one fewer."""

    def __init__(self, paths: Sequence[Path], dtype: np.dtype[Any], part_length: int) -> None:
        self._parts = [map_file(path, dtype) for path in paths]
        self._part_length = part_length
        self._dtype = dtype
        self._length = sum(len(part) for part in self._parts)

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, stop: int) -> Numbers:
        """Return the numbers of a range; a read-only view where one file holds them all. [stop - start]

        Raises:
            IndexError: The range leaves the stream.
        """
        if not 0 <= start <= stop <= self._length:
            raise IndexError(f"tokens {start} to {stop} are not in a store of {self._length} tokens")
        if start == stop:
            return np.empty(0, dtype=self._dtype)
        size = self._part_length
        first, last = start // size, (stop - 1) // size
        if first == last:
            return self._parts[first][start - first * size : stop - first * size]
        owners = range(first, last + 1)
        return np.concatenate([self._parts[i][max(0, start - i * size) : stop - i * size] for i in owners])

    def gather(self, starts: Positions, length: int) -> Numbers:
        """Return `length` numbers from each of `starts`, as a copy. [B, length]

        Raises:
            IndexError: A range leaves the stream.
        """
        if starts.size and (int(starts.min()) < 0 or int(starts.max()) + length > self._length):
            raise IndexError(f"a range of {length} tokens leaves the store of {self._length} tokens")
        if len(self._parts) == 1:
            return _windows(self._parts[0], length)[starts]
        rows = np.empty((len(starts), length), dtype=self._dtype)  # [B, length]
        owners, insides = np.divmod(starts, self._part_length)
        whole = insides + length <= self._part_length
        for owner in sorted({int(owner) for owner in owners[whole]}):
            mine = whole & (owners == owner)
            rows[mine] = _windows(self._parts[owner], length)[insides[mine]]
        for row in np.flatnonzero(~whole).tolist():  # a range that lies over the border of two files
            rows[row] = self.read(int(starts[row]), int(starts[row]) + length)
        return rows


def map_file(path: Path, dtype: np.dtype[Any]) -> Numbers:
    """Map a whole file, read-only; an empty one (which cannot be mapped) is an empty array."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return np.empty(0, dtype=dtype)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=dtype)


def _windows(part: Numbers, length: int) -> Numbers:
    """Every window of `length` consecutive numbers, as a view. [len(part) - length + 1, length]"""
    count = max(0, len(part) - length + 1)
    return np.ndarray((count, length), part.dtype, buffer=part, strides=part.strides * 2)
