"""Read any corpus as a stream of documents, in an order that depends on names only and in bounded memory.

    for document in read_documents("corpus/", text_documents="line"):
        ...                                             # Document(text="One small step.", source="moon.txt:1")

    source --list_sources--> SourceFile ... --split_source--> SourcePart ... --read_blocks--> DocumentBlock ...

`read_documents` walks the road in one process. Several processes take the parts of `split_source` instead, each any of
them, and joined in order they give the same documents.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from foundry_config.errors import DataError
from foundry_config.lookup import did_you_mean
from foundry_data.documents import (
    MAX_DOCUMENT_BYTES,
    Document,
    DocumentBlock,
    DuplicatePolicy,
    EmptyPolicy,
    EncodingPolicy,
    Granularity,
    ReadReport,
    ReadSettings,
)
from foundry_data.fingerprint import source_fingerprint
from foundry_data.intake import Intake
from foundry_data.python_docs import NAME as PYTHON_DOCS
from foundry_data.python_docs import python_docs_file, read_python_docs, split_python_docs
from foundry_data.reader_columns import read_arrow, read_parquet, split_parquet
from foundry_data.reader_function import SUFFIX as FUNCTION
from foundry_data.reader_function import function_file, read_function
from foundry_data.reader_jsonl import read_json_lines
from foundry_data.reader_text import read_text
from foundry_data.source_parts import split_by_lines, split_nothing, split_text, whole
from foundry_data.sources import SourceFile, SourcePart, find_files
from foundry_data.words import count_words

PART_BYTES = 8 * 2**20


class Reader(NamedTuple):
    """What a file format needs."""

    read: Callable[[SourcePart, ReadSettings, ReadReport], Iterator[DocumentBlock]]
    split: Callable[[SourceFile, ReadSettings, int], list[SourcePart]]


class DocumentStream:
    """The documents of a corpus; every iteration reads it afresh and starts a new `report`.

    Raises, while it is iterated:
        DataError: A file is damaged or changed, a policy refuses what is in it, or the corpus has no document at all.
    """

    def __init__(self, source: str | Path, settings: ReadSettings, exclude: Sequence[Path]) -> None:
        self.source = source
        self.settings = settings
        self.exclude = tuple(exclude)
        self.report = ReadReport()
        self.files = list_sources(source, settings=settings, exclude=exclude, report=self.report)

    def fingerprint(self) -> str:
        """Return the fingerprint of the files' content, as `source_fingerprint` does."""
        return source_fingerprint(self.files)

    def blocks(self) -> Iterator[DocumentBlock]:
        """Yield the documents in blocks, without counting words."""
        found = self.report
        self.report = ReadReport(
            files=found.files, duplicate_files=found.duplicate_files, ignored_files=found.ignored_files
        )
        for file in self.files:
            yield from read_blocks(file, self.settings, self.report)
        require_documents(self.source, self.report)

    def __iter__(self) -> Iterator[Document]:
        for block in self.blocks():
            self.report.words += sum(map(count_words, block.texts))
            yield from block.documents()


def read_documents(
    source: str | Path,
    *,
    text_documents: Granularity = "file",
    text_field: str = "text",
    encoding_errors: EncodingPolicy = "refuse",
    empty_documents: EmptyPolicy = "skip",
    duplicate_files: DuplicatePolicy = "skip",
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    exclude: Sequence[Path] = (),
) -> DocumentStream:
    """Open a corpus: a file, a folder, a glob, a saved dataset, `builtin:python-docs`, `module:function`.

    Args:
        source: Where the text is. In a folder, files of unknown suffix are counted and left alone.
        text_documents: What a document of a .txt file is.
        text_field: Key of JSON objects, or column, that holds the text.
        encoding_errors: What to do with a document that is not valid UTF-8.
        empty_documents: What to do with a document without text.
        duplicate_files: What to do with a file whose bytes equal those of an earlier one.
        max_document_bytes: Largest document allowed. [bytes]
        exclude: Files and folders to leave out.

    Raises:
        ConfigError: A choice that does not exist, or a function that cannot be imported.
        DataError: No such source, nothing readable in it, or a duplicate file that the policy refuses.
    """
    settings = ReadSettings(
        text_documents=text_documents,
        text_field=text_field,
        encoding_errors=encoding_errors,
        empty_documents=empty_documents,
        duplicate_files=duplicate_files,
        max_document_bytes=max_document_bytes,
    )
    return DocumentStream(source, settings, exclude)


def list_sources(
    source: str | Path,
    *,
    settings: ReadSettings | None = None,
    exclude: Sequence[Path] = (),
    report: ReadReport | None = None,
) -> list[SourceFile]:
    """List the files of a corpus in reading order, duplicates treated as `settings.duplicate_files` says.

    Raises:
        DataError: No such source, nothing readable in it, or a duplicate that the policy refuses.
    """
    report = ReadReport() if report is None else report
    settings = settings or ReadSettings()
    files: list[SourceFile]
    if str(source).startswith("builtin:"):
        files = [_builtin(str(source))]
    elif not Path(source).exists() and (function := function_file(Path(source))) is not None:
        files = [function]
    else:
        found = find_files(
            source, suffixes=[name for name in READERS if name.startswith(".")], exclude=exclude, report=report
        )
        files = found if settings.duplicate_files == "keep" else _without_duplicates(found, settings, report)
    report.files = len(files)
    return files


def split_source(file: SourceFile, settings: ReadSettings, *, part_bytes: int = PART_BYTES) -> list[SourcePart]:
    """Cut a file into parts of about `part_bytes` at document borders; the cut depends on the file and settings only.

    Raises:
        DataError: The file cannot be read or changed since it was found.
    """
    return READERS[file.suffix].split(file, settings, part_bytes)


def read_blocks(part: SourceFile | SourcePart, settings: ReadSettings, report: ReadReport) -> Iterator[DocumentBlock]:
    """Yield the documents of a file or part in blocks of about a megabyte, adding to the counts of `report`.

    A file without any document counts as an empty one. Words are not counted here.

    Raises:
        DataError: The file is damaged or changed, or a policy refuses what is in it.
    """
    part = whole(part) if isinstance(part, SourceFile) else part
    before = _met(report)
    for block in READERS[part.file.suffix].read(part, settings, report):
        if block.texts:
            yield block
    is_whole = part.start == 0 and part.stop in (None, part.file.size)
    if is_whole and _met(report) == before:
        Intake(part.file.label, settings, report).empty(0)


def iter_documents(part: SourceFile | SourcePart, settings: ReadSettings, report: ReadReport) -> Iterator[Document]:
    """Yield the documents of `read_blocks` one by one.

    Raises:
        DataError: As `read_blocks`.
    """
    for block in read_blocks(part, settings, report):
        yield from block.documents()


def require_documents(source: str | Path, report: ReadReport) -> None:
    """Refuse a corpus of which nothing is left.

    Raises:
        DataError: `report` counts no document.
    """
    if report.documents == 0:
        raise DataError(f"the corpus {str(source)!r} has no text ({report}); name another data.source_corpus")


def _met(report: ReadReport) -> tuple[int, int, int]:
    return report.documents, report.empty_documents, report.invalid_documents


def _builtin(name: str) -> SourceFile:
    if name not in BUILTINS:
        raise DataError(f"unknown corpus {name!r}.{did_you_mean(name, BUILTINS)} Known: {', '.join(BUILTINS)}")
    return BUILTINS[name]()


def _without_duplicates(found: list[SourceFile], settings: ReadSettings, report: ReadReport) -> list[SourceFile]:
    """Leave out files with the bytes and format of an earlier one; only files of equal size are hashed."""
    same_size: dict[tuple[str, int], list[SourceFile]] = {}
    for file in found:
        same_size.setdefault((file.format, file.size), []).append(file)
    kept: list[SourceFile] = []
    first_with: dict[tuple[str, str], SourceFile] = {}
    for file in found:
        if file.size == 0 or len(same_size[file.format, file.size]) == 1:
            kept.append(file)
            continue
        first = first_with.setdefault((file.format, file.digest()), file)
        if first is file:
            kept.append(file)
        elif settings.duplicate_files == "refuse":
            raise DataError(
                f"{file.label} has the same bytes as {first.label}; "
                "remove one, or set data.duplicate_files to skip or keep"
            )
        else:
            report.duplicate_files.append(file.label)
    return kept


BUILTINS: dict[str, Callable[[], SourceFile]] = {PYTHON_DOCS: python_docs_file}

READERS: dict[str, Reader] = {
    ".txt": Reader(read_text, split_text),
    ".text": Reader(read_text, split_text),
    ".train": Reader(read_text, split_text),  # the BabyLM corpora: childes.train, childes.dev, childes.test
    ".dev": Reader(read_text, split_text),
    ".test": Reader(read_text, split_text),
    ".jsonl": Reader(read_json_lines, split_by_lines),
    ".ndjson": Reader(read_json_lines, split_by_lines),
    ".parquet": Reader(read_parquet, split_parquet),
    ".arrow": Reader(read_arrow, split_nothing),
    FUNCTION: Reader(read_function, split_nothing),
    PYTHON_DOCS: Reader(read_python_docs, split_python_docs),
}
