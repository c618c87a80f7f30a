"""What a reader hands on: documents, the settings they were read with, and the count of everything that was met.

    read_documents("corpus/", text_documents="line")
    -> Document(text="One small step.", source="moon.txt:1"), Document(text=..., source="moon.txt:2"), ...

Readers work in blocks of about a megabyte (`DocumentBlock`), because a million short lines should not cost a million
passes through every layer; a `Document` is one text of a block with the place it came from.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from foundry_config.errors import ConfigError
from foundry_config.lookup import did_you_mean

MAX_DOCUMENT_BYTES = 2**27  # 128 MiB: a 100 MB line passes; a decompression bomb ends before it fills the memory

Granularity = Literal["file", "line", "paragraph"]
EncodingPolicy = Literal["refuse", "skip", "replace"]
EmptyPolicy = Literal["skip", "refuse"]
DuplicatePolicy = Literal["skip", "keep", "refuse"]

CHOICES: dict[str, tuple[str, ...]] = {
    "text_documents": ("file", "line", "paragraph"),
    "encoding_errors": ("refuse", "skip", "replace"),
    "empty_documents": ("skip", "refuse"),
    "duplicate_files": ("skip", "keep", "refuse"),
}


class Document(NamedTuple):
    """One text of a corpus."""

    text: str
    source: str = ""
    """Where it came from, safe to print: `file`, or `file:record` (line number, or row counted from 1)."""


class DocumentBlock(NamedTuple):
    """Consecutive documents of one file."""

    label: str
    """Name of the file, safe to print."""
    records: Sequence[int]
    """Line or row of each text, counted from 1; 0 where the file is the document."""
    texts: list[str]

    def documents(self) -> Iterator[Document]:
        """Yield each text with its place."""
        for record, text in zip(self.records, self.texts, strict=True):
            yield Document(text, f"{self.label}:{record}" if record else self.label)


class ReadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How bytes become documents. The fields are those of `data` in an experiment's config.

    Raises:
        ConfigError: A choice that does not exist.
    """

    text_documents: Granularity = "file"
    text_field: str = "text"
    encoding_errors: EncodingPolicy = "refuse"
    empty_documents: EmptyPolicy = "skip"
    duplicate_files: DuplicatePolicy = "skip"
    max_document_bytes: int = MAX_DOCUMENT_BYTES

    def __post_init__(self) -> None:
        for field, known in CHOICES.items():
            value = getattr(self, field)
            if value not in known:
                hint = did_you_mean(str(value), known)
                raise ConfigError(f"data.{field}: unknown choice {value!r}.{hint} Known: {', '.join(known)}")
        if self.max_document_bytes < 1:
            raise ConfigError(f"max_document_bytes must be at least 1, not {self.max_document_bytes}")


class ReadReport(msgspec.Struct):
    """Counts of what was read and of what was left out, and why."""

    files: int = 0
    documents: int = 0
    words: int = 0
    """Counted where the documents are handed out one by one (`read_documents`), not by the block readers."""
    bytes: int = 0
    """Bytes of text, after decompression."""
    empty_documents: int = 0
    """Documents without text, and files without any document; left out."""
    invalid_documents: int = 0
    """Documents that are not valid UTF-8; left out, or kept with U+FFFD in place of the bad bytes."""
    control_characters: int = 0
    """NUL and other control characters that were kept; tab and line breaks do not count."""
    duplicate_files: list[str] = msgspec.field(default_factory=list[str])
    """Names of files with the same bytes as an earlier one, left out."""
    ignored_files: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """Files of a folder that no reader knows, counted by suffix."""

    def add(self, other: "ReadReport") -> None:
        """Add the counts of `other`, for example those of another process."""
        for field in ("files", "documents", "words", "bytes", "empty_documents", "invalid_documents"):
            setattr(self, field, getattr(self, field) + getattr(other, field))
        self.control_characters += other.control_characters
        self.duplicate_files = self.duplicate_files + other.duplicate_files
        self.ignored_files = dict(Counter(self.ignored_files) + Counter(other.ignored_files))

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return msgspec.to_builtins(self)

    def __str__(self) -> str:
        read = f"{_say(self.documents, 'document')}, {_say(self.bytes, 'byte')} in {_say(self.files, 'file')}"
        notes = [
            (self.empty_documents, "empty document", "left out"),
            (self.invalid_documents, "document", "with invalid UTF-8"),
            (len(self.duplicate_files), "duplicate file", "left out"),
            (self.control_characters, "control character", "kept"),
            (sum(self.ignored_files.values()), "file", f"ignored ({self.ignored_summary()})"),
        ]
        return "; ".join([read, *(f"{_say(count, noun)} {fate}" for count, noun, fate in notes if count)])

    def ignored_summary(self) -> str:
        """Return the ignored files by suffix, as in `.csv 2, .md 1`."""
        return ", ".join(f"{suffix} {count:,}" for suffix, count in sorted(self.ignored_files.items()))


def _say(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def is_unicode(text: str) -> bool:
    """Tell whether UTF-8 can say `text`: a string of Python or JSON may hold half of a surrogate pair.

    >>> is_unicode("caf\u00e9"), is_unicode(chr(0xD83D))
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(text: str) -> str:
    """Return `text` with control and other unprintable characters spelled out, so that a terminal stays unharmed.

    >>> escaped("a\\x1b[31m.txt")
    'a\\\\x1b[31m.txt'
    """
    return repr(text)[1:-1]
