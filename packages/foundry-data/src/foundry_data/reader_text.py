"""Read plain text: a document per file, per line, or per paragraph between blank lines.

    one\\n            file       ["one\\ntwo\\n\\nthree\\n"]
    two\\n            line       ["one", "two", "three"]         and one empty document counted
    \\n               paragraph  ["one\\ntwo", "three"]
    three\\n

Lines end with LF or CRLF, which becomes LF; a byte order mark at the start of a file is dropped.
"""

from collections.abc import Callable, Iterable, Iterator

from foundry_config.errors import DataError
from foundry_data.byte_streams import CHUNK_BYTES, LineBlock, line_blocks, read_chunks, too_long
from foundry_data.documents import DocumentBlock, ReadReport, ReadSettings
from foundry_data.intake import BYTE_ORDER_MARK, Intake
from foundry_data.sources import SourcePart


def read_text(part: SourcePart, settings: ReadSettings, report: ReadReport) -> Iterator[DocumentBlock]:
    """Yield the documents of a text file, cut as `settings.text_documents` says.

    Raises:
        DataError: The file is damaged or changed, or a policy refuses what is in it.
    """
    intake = Intake(part.file.label, settings, report)
    yield from GRANULARITIES[settings.text_documents](part, intake)


def _whole_file(part: SourcePart, intake: Intake) -> Iterator[DocumentBlock]:
    limit = intake.settings.max_document_bytes
    data = bytearray()
    for chunk in read_chunks(part):
        data += chunk
        if len(data) > limit:
            raise DataError(too_long(part.file.label, limit, "set data.text_documents to line or paragraph"))
    content = bytes(data.removeprefix(BYTE_ORDER_MARK))
    intake.count(content)
    text = intake.decode(content, 0)
    yield intake.block([0], [None if text is None else text.replace("\r\n", "\n")])


def _lines(part: SourcePart, intake: Intake) -> Iterator[DocumentBlock]:
    for first, data in text_line_blocks(part, intake):
        lines = split_lines(data)
        records = range(first, first + len(lines))
        try:
            texts = data.decode().replace("\r\n", "\n").split("\n")[: len(lines)]
        except UnicodeDecodeError:
            yield intake.block(records, [intake.decode(line, record) for line, record in zip(lines, records)])
        else:
            yield intake.block(records, texts)


def _paragraphs(part: SourcePart, intake: Intake) -> Iterator[DocumentBlock]:
    numbered = (
        (record, line)
        for first, data in text_line_blocks(part, intake)
        for record, line in enumerate(split_lines(data), first)
    )
    limit = intake.settings.max_document_bytes
    for batch in batches(paragraphs(numbered, max_bytes=limit, label=part.file.label)):
        records = [record for record, _ in batch]
        yield intake.block(records, [intake.decode(data, record) for record, data in batch])


def paragraphs(numbered: Iterable[tuple[int, bytes]], *, max_bytes: int, label: str) -> Iterator[tuple[int, bytes]]:
    """Join lines up to the next blank one; yield (number of the first line, paragraph without its last line break).

    Raises:
        DataError: A paragraph is longer than `max_bytes`.
    """
    lines: list[bytes] = []
    first = size = 0
    for number, line in numbered:
        if line.strip():
            first = first if lines else number
            lines.append(line)
            size += len(line) + 1
            if size > max_bytes:
                raise DataError(too_long(f"{label}:{first}", max_bytes, "put blank lines between the paragraphs"))
        elif lines:
            yield first, b"\n".join(lines)
            lines, size = [], 0
    if lines:
        yield first, b"\n".join(lines)


def batches(numbered: Iterable[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Group small documents until there is about a megabyte."""
    batch: list[tuple[int, bytes]] = []
    size = 0
    for number, data in numbered:
        batch.append((number, data))
        size += len(data)
        if size >= CHUNK_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def text_line_blocks(part: SourcePart, intake: Intake) -> Iterator[LineBlock]:
    """Yield blocks of whole lines without the byte order mark at the start of the file, counting their bytes.

    Raises:
        DataError: The file is damaged or changed, or a line is over the limit.
    """
    limit = intake.settings.max_document_bytes
    blocks = line_blocks(read_chunks(part), first=part.first_record, max_bytes=limit, label=part.file.label)
    for first, data in blocks:
        text = data.removeprefix(BYTE_ORDER_MARK) if first == 1 else data
        intake.count(text)
        yield LineBlock(first, text)


def split_lines(data: bytes) -> list[bytes]:
    """Return the lines of a block without their line breaks (LF or CRLF).

    >>> split_lines(b"one\\r\\n\\ntwo"), split_lines(b"one\\n")
    ([b'one', b'', b'two'], [b'one'])
    """
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    return lines if lines[-1] else lines[:-1]


GRANULARITIES: dict[str, Callable[[SourcePart, Intake], Iterator[DocumentBlock]]] = {
    "file": _whole_file,
    "line": _lines,
    "paragraph": _paragraphs,
}
