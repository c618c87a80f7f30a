"""Cut large files into parts that processes can read on their own, each part beginning with a whole document.

    bytes      0         8 MiB               16 MiB
    line       |---------|\\n----------------|\\n----
    parts      [          ][                  ][     ]      each also knows the number of its first line

The borders depend on the file alone, never on how many processes there are. Compressed files are one part each: their
bytes can only be reached from the start.
"""

from collections.abc import Callable
from typing import BinaryIO

from foundry_data.byte_streams import CHUNK_BYTES, unchanged
from foundry_data.documents import ReadSettings
from foundry_data.sources import SourceFile, SourcePart

FindBorder = Callable[[BinaryIO, int], int]


def whole(file: SourceFile) -> SourcePart:
    """Return the file as one part."""
    return SourcePart(file)


def split_nothing(file: SourceFile, _settings: ReadSettings, _part_bytes: int) -> list[SourcePart]:
    """Leave a file in one piece."""
    return [whole(file)]


def split_text(file: SourceFile, settings: ReadSettings, part_bytes: int) -> list[SourcePart]:
    """Cut a text file at lines or paragraphs, whichever its documents are.

    Raises:
        DataError: The file cannot be read or changed since it was found.
    """
    if settings.text_documents == "file":
        return [whole(file)]
    return _split(file, part_bytes, _next_line if settings.text_documents == "line" else _next_paragraph)


def split_by_lines(file: SourceFile, _settings: ReadSettings, part_bytes: int) -> list[SourcePart]:
    """Cut a file of which every line is a document.

    Raises:
        DataError: The file cannot be read or changed since it was found.
    """
    return _split(file, part_bytes, _next_line)


def _split(file: SourceFile, part_bytes: int, find_border: FindBorder) -> list[SourcePart]:
    if file.compression or file.size <= part_bytes:
        return [whole(file)]
    parts: list[SourcePart] = []
    with unchanged(file) as path, path.open("rb") as raw:
        start, line = 0, 1
        while start < file.size:
            stop = min(find_border(raw, min(start + part_bytes, file.size)), file.size)
            parts.append(SourcePart(file, start, stop, line))
            line += _count_lines(raw, start, stop)
            start = stop
    return parts


def _next_line(raw: BinaryIO, position: int) -> int:
    """Return the first byte at or after `position` that follows a line break, or the end of the file."""
    raw.seek(position - 1)
    raw.readline()
    return raw.tell()


def _next_paragraph(raw: BinaryIO, position: int) -> int:
    """Return the byte after the first blank line that begins after `position`, or the end of the file."""
    raw.seek(_next_line(raw, position))
    while (line := raw.readline()) and line.strip():
        pass
    return raw.tell()


def _count_lines(raw: BinaryIO, start: int, stop: int) -> int:
    raw.seek(start)
    count = 0
    while start < stop and (chunk := raw.read(min(CHUNK_BYTES, stop - start))):
        count += chunk.count(b"\n")
        start += len(chunk)
    return count
