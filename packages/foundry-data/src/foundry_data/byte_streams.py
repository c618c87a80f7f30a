"""Read a file as a stream of bytes in bounded memory: whole or in part, compressed or not, noticing damage and change.

    corpus.jsonl.gz --read_chunks--> bytes, bytes, ... --line_blocks--> whole lines, about a megabyte at a time

A decompressor never hands out more than 32 MiB at once, and a line longer than the limit ends with an error, so a small
file that unpacks to a terabyte of zeros fills no memory.
"""

import contextlib
import gzip
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from foundry_config.errors import DataError
from foundry_data.sources import SourceFile, SourcePart, check_unchanged

CHUNK_BYTES = 2**20
# zstd shrinks zeros about 30,000 times: this much input unpacks to 32 MiB at most.
ZSTD_INPUT_BYTES = 2**10


class LineBlock(NamedTuple):
    """Consecutive whole lines."""

    first: int
    """Number of the first line, counted from 1."""
    data: bytes
    """The lines with their line breaks; only the last line of a file may lack one."""


def read_chunks(part: SourcePart) -> Iterator[bytes]:
    """Yield the bytes of `part` (decompressed) in chunks of about a megabyte.

    Raises:
        DataError: The file cannot be read, is damaged or cut short, or changed since it was found.
    """
    with unchanged(part.file) as path, _explain_damage(part.file), path.open("rb") as raw:
        yield from DECOMPRESSORS[part.file.compression](raw, part)


def line_blocks(chunks: Iterable[bytes], *, first: int, max_bytes: int, label: str) -> Iterator[LineBlock]:
    """Regroup chunks into blocks of whole lines.

    Args:
        chunks: The bytes of a file or a part of it.
        first: Number of the line that the first chunk begins with.
        max_bytes: Longest line allowed.
        label: Name of the file, for the message.

    Raises:
        DataError: A line is longer than `max_bytes`.
    """
    pending: list[bytes] = []
    pending_bytes = 0
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            data = b"".join([*pending, chunk[:end]])
            yield LineBlock(first, data)
            first += data.count(b"\n")
            pending, pending_bytes = [], 0
        pending.append(chunk[end:])
        pending_bytes += len(chunk) - end
        if pending_bytes > max_bytes:
            raise DataError(too_long(f"{label}:{first}", max_bytes, "give each document a line of its own"))
    if pending_bytes:
        yield LineBlock(first, b"".join(pending))


def too_long(place: str, max_bytes: int, advice: str) -> str:
    """Return the message for a document over the limit."""
    return f"{place}: a document of more than {max_bytes:,} bytes; {advice}"


@contextlib.contextmanager
def unchanged(file: SourceFile) -> Generator[Path]:
    """Give the path of `file`, and check before and after the block that it is still the file that was found.

    Raises:
        DataError: It changed, vanished, or may not be read.
    """
    check_unchanged(file)
    try:
        yield Path(file.path)
    except OSError as error:
        raise DataError(
            f"cannot read {file.label}: {error.strerror or error}; check the disk and permissions"
        ) from error
    check_unchanged(file)


@contextlib.contextmanager
def _explain_damage(file: SourceFile) -> Generator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file.label} is damaged or cut short: {error}; copy or download it again") from error


def _plain(raw: BinaryIO, part: SourcePart) -> Iterator[bytes]:
    raw.seek(part.start)
    remaining = (part.file.size if part.stop is None else part.stop) - part.start
    while remaining > 0 and (chunk := raw.read(min(CHUNK_BYTES, remaining))):
        remaining -= len(chunk)
        yield chunk


def _gunzip(raw: BinaryIO, _part: SourcePart) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=raw) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _unzstd(raw: BinaryIO, part: SourcePart) -> Iterator[bytes]:
    """Yield the content of all frames; unlike the library's own file object, notice a frame that is cut short."""
    zstandard = _import_zstandard(part.file)
    frame = None
    output = bytearray()
    data = raw.read(ZSTD_INPUT_BYTES)
    while data:
        frame = frame or zstandard.ZstdDecompressor().decompressobj()
        try:
            output += frame.decompress(data)
        except zstandard.ZstdError as error:
            raise EOFError(str(error)) from error
        data = frame.unused_data or raw.read(ZSTD_INPUT_BYTES)
        frame = None if frame.eof else frame
        if len(output) >= CHUNK_BYTES:
            yield bytes(output)
            output.clear()
    if frame is not None:
        raise EOFError("compressed file ended before the end of its last frame")
    if output:
        yield bytes(output)


def _import_zstandard(file: SourceFile) -> Any:
    try:
        import zstandard  # optional extra
    except ImportError as error:
        raise DataError(f"{file.label} needs the package zstandard: install foundry-data[zstd]") from error
    return zstandard


DECOMPRESSORS: dict[str, Callable[[BinaryIO, SourcePart], Iterator[bytes]]] = {
    "": _plain,
    ".gz": _gunzip,
    ".zst": _unzstd,
}
