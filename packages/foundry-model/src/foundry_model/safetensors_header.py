"""Read what a safetensors file says it holds, and believe nothing of it.

    [8 bytes: N][N bytes of JSON: name -> dtype, shape, data_offsets][the tensors, end to end]

The library parses a hostile header of 74 MB for half a minute; here N is checked against 8 MiB and the size of the file
before a byte of it is read, and every tensor must lie exactly after the one before. `read_tensor_into` then reads
straight into memory that exists already: no memory map that a truncated file could kill the process with.
"""

import json
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from foundry_config.errors import CheckpointError

MAX_HEADER_BYTES = 8 * 2**20


class TensorEntry(NamedTuple):
    """Where one tensor lies in a safetensors file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    """Position of its first byte, counted from the start of the file."""
    bytes: int


def read_safetensors_header(path: Path | str) -> dict[str, TensorEntry]:
    """Return the tensors of a file by name, in the order in which they lie.

    Raises:
        CheckpointError: Not a safetensors file, longer or shorter than it says, or a header that is too large, is not
            strict JSON in UTF-8, or describes tensors that overlap, leave holes or do not fit their shapes.
    """
    return _read(Path(path))[0]


def read_safetensors_metadata(path: Path | str) -> dict[str, str]:
    """Return the `__metadata__` of a file, under the same checks.

    Raises:
        CheckpointError: As `read_safetensors_header`.
    """
    return _read(Path(path))[1]


def open_plain_file(path: Path) -> BinaryIO:
    """Open a file that nobody vouches for; what is no file is refused, since opening a pipe may never end.

    Raises:
        CheckpointError: It is a pipe, a device or a folder.
        OSError: It cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError(f"{path}: not a plain file, so it is not read; put a copy of what it stands for there")
    return path.open("rb")


def shown(name: str) -> str:
    """Return the name of a tensor as a message can show it: one line of at most 80 characters."""
    if len(name) <= _SHOWN and name.isprintable():
        return name
    return repr(name[:_SHOWN])[1:-1] + ("..." if len(name) > _SHOWN else "")


def read_tensor_into(file: BinaryIO, entry: TensorEntry, target: Tensor) -> None:
    """Copy one tensor of an open file into `target`, which has its shape; another type or device converts.

    Raises:
        CheckpointError: The file ends too early.
    """
    direct = target.device.type == "cpu" and target.is_contiguous() and target.dtype == entry.dtype
    buffer = target.detach() if direct else torch.empty(entry.shape, dtype=entry.dtype)
    flat: Any = buffer.reshape(-1).view(torch.uint8).numpy() if buffer.numel() else b""
    view = memoryview(flat)
    file.seek(entry.offset)
    done = 0
    while done < entry.bytes:
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{file.name}: ended {entry.bytes - done:,} bytes too early; it changed while read")
        done += count
    if not direct:
        with torch.no_grad():
            target.copy_(buffer)


def same_bytes(first: tuple[Path, TensorEntry], second: tuple[Path, TensorEntry]) -> bool:
    """Compare two tensors of equal length in files that have been checked, piece by piece."""
    left = first[1].bytes
    with first[0].open("rb") as one, second[0].open("rb") as other:
        one.seek(first[1].offset)
        other.seek(second[1].offset)
        while left > 0:
            piece = min(left, _PIECE)
            if one.read(piece) != other.read(piece):
                return False
            left -= piece
    return True


def _read(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    try:
        with open_plain_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            raw = _header_bytes(file, size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except _BadHeaderError as error:
        raise CheckpointError(f"{path}: not a valid safetensors file: {error}") from None
    try:
        content = _parse(raw)
        metadata = _checked_metadata(content.pop("__metadata__", {}))
        return _checked_entries(content, start=8 + len(raw), size=size), metadata
    except _BadHeaderError as error:
        raise CheckpointError(f"{path}: not a valid safetensors file: {error}") from None


def _header_bytes(file: BinaryIO, size: int) -> bytes:
    prefix = file.read(8)
    if len(prefix) < 8:
        raise _BadHeaderError(f"it has {size} bytes, and the length of the header alone takes 8")
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise _BadHeaderError(f"its header claims {length:,} bytes; more than {MAX_HEADER_BYTES:,} are not read")
    if length > size - 8:
        raise _BadHeaderError(f"its header claims {length:,} bytes, and only {size - 8:,} follow")
    return file.read(length)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        # of bytes, json would take UTF-16 and a mark of byte order too
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except _BadHeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise _BadHeaderError(f"its header is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise _BadHeaderError("its header is not a JSON object")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _BadHeaderError(f"its header has {twice[:80]!r} twice")
    return content


def _checked_metadata(metadata: Any) -> dict[str, str]:
    if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
        return metadata
    raise _BadHeaderError("its __metadata__ is not a map of strings")


def _checked_entries(content: dict[str, Any], *, start: int, size: int) -> dict[str, TensorEntry]:
    entries = {name: _checked_entry(name, entry, start) for name, entry in content.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].offset, item[1].bytes)))
    _check_end_to_end(ordered.items(), start, size)
    return ordered


def _checked_entry(name: str, entry: Any, start: int) -> TensorEntry:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _BadHeaderError(f"tensor {name[:80]!r} is not described by dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _BadHeaderError(f"tensor {name[:80]!r} has the unknown type {str(entry['dtype'])[:80]!r}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2 or len(shape) > 32:
        raise _BadHeaderError(f"tensor {name[:80]!r} has a shape or offsets that are not counts")
    count = dtype.itemsize
    for length in shape:
        count *= length
    if offsets[1] - offsets[0] != count:
        raise _BadHeaderError(f"tensor {name[:80]!r} needs {count} bytes and has {offsets[1] - offsets[0]}")
    return TensorEntry(dtype, tuple(shape), start + offsets[0], count)


def _check_end_to_end(entries: Iterable[tuple[str, TensorEntry]], start: int, size: int) -> None:
    position = start
    for name, entry in entries:
        if entry.offset != position:
            raise _BadHeaderError(f"tensor {name[:80]!r} overlaps another or leaves a hole before it")
        position += entry.bytes
    if position != size:
        raise _BadHeaderError(f"its tensors end at byte {position:,}, and the file has {size:,}")


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


_SHOWN = 80  # characters of a name
_PIECE = 2**22  # bytes


class _BadHeaderError(Exception):
    """Why a header is refused; the caller adds the path."""


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
