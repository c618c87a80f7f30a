"""Cut documents into the lines that a SentencePiece training accepts, with nothing silently left out.

SentencePiece drops, without an error, every line over 4,192 bytes and every line that holds its own mark U+2585:

    'a line of 10,000 bytes'   ->   three lines, cut at spaces        (counted in `TrainingReport.split_lines`)
    'left \u2585 right'             ->   'left ', ' right'                 (counted in `reserved_characters`)
"""

import random
from collections.abc import Iterable, Iterator

import msgspec

from foundry_data.documents import Document

MAX_LINE_BYTES = 4192  # SentencePiece's default limit for one sentence
RESERVED = "\u2585"  # SentencePiece's internal mark for the unknown


class TrainingReport(msgspec.Struct):
    """What a tokenizer training saw."""

    documents: int = 0
    lines: int = 0
    bytes: int = 0
    split_lines: int = 0
    """Lines over 4,192 bytes that were cut."""
    reserved_characters: int = 0
    """Occurrences of U+2585, which SentencePiece cannot learn; the text around them was used."""
    sampled_lines: int | None = None
    """Lines that were left after sampling; None if all were used."""
    all_read: bool = False
    """The documents are read; what goes on is the training itself."""


def training_lines(documents: Iterable[str | Document], report: TrainingReport) -> Iterator[str]:
    """Yield the lines with text of all documents, none longer than SentencePiece accepts, counting into `report`."""
    for document in documents:
        text = document if isinstance(document, str) else document.text
        report.documents += 1
        for line in text.split("\n"):
            for part in _usable_parts(line, report):
                report.lines += 1
                report.bytes += len(part) if part.isascii() else len(part.encode())
                yield part


def _usable_parts(line: str, report: TrainingReport) -> Iterator[str]:
    parts = [line]
    if RESERVED in line:
        report.reserved_characters += line.count(RESERVED)
        parts = line.split(RESERVED)
    for part in parts:
        if not part or part.isspace():
            continue
        if len(part) <= MAX_LINE_BYTES // 4 or len(part.encode()) <= MAX_LINE_BYTES:
            yield part
        else:
            report.split_lines += 1
            yield from split_line(part)


def split_line(line: str, limit: int = MAX_LINE_BYTES) -> Iterator[str]:
    """Cut a line into parts of at most `limit` bytes, before a space where there is one, with nothing left out.

    Args:
        line: Text without line breaks.
        limit: At least 4, the longest UTF-8 character. [bytes]

    >>> list(split_line("one two three", limit=8))
    ['one two', ' three']
    """
    data = line.encode()
    start = 0
    while len(data) - start > limit:
        end = start + limit
        while data[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        space = data.rfind(b" ", start + 1, end + 1)
        end = space if space > start else end
        yield data[start:end].decode()
        start = end
    yield data[start:].decode()


def sample_in_order(lines: Iterable[str], size: int, *, seed: int) -> list[str]:
    """Return `size` lines drawn without replacement, in their first order; all of them if there are not so many.

    Each set of `size` lines is equally likely (reservoir sampling, Vitter 1985, algorithm R).
    """
    generator = random.Random(seed)
    reservoir: list[tuple[int, str]] = []
    for place, line in enumerate(lines):
        if place < size:
            reservoir.append((place, line))
        elif (slot := generator.randrange(place + 1)) < size:
            reservoir[slot] = (place, line)
    return [line for _, line in sorted(reservoir)]
