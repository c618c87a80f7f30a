"""The policies at the door: invalid UTF-8, documents without text, control characters. Everything is counted.

A reader cuts a file into documents and passes them through one `Intake`:

    raw bytes --decode--> text, or None (left out)        encoding_errors: refuse | skip | replace
    texts     --block---> DocumentBlock                   empty_documents: skip | refuse
"""

from collections.abc import Iterable, Sequence

from foundry_config.errors import DataError
from foundry_data.byte_streams import too_long
from foundry_data.documents import DocumentBlock, ReadReport, ReadSettings

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# C0 without tab, line feed and carriage return; and DEL. All are single bytes in UTF-8.
CONTROL_BYTES = bytes(sorted({*range(32), 127} - {9, 10, 13}))


class Intake:
    """Applies the settings to the documents of one file (or part of one) and keeps its counts."""

    def __init__(self, label: str, settings: ReadSettings, report: ReadReport) -> None:
        self.label = label
        self.settings = settings
        self.report = report

    def count(self, data: bytes) -> None:
        """Count bytes of text, and the control characters among them."""
        self.report.bytes += len(data)
        self.count_control_characters(data)

    def count_control_characters(self, data: bytes) -> None:
        """Count NUL and the other control characters that will be kept."""
        self.report.control_characters += len(data) - len(data.translate(None, CONTROL_BYTES))

    def require_size(self, data: bytes, record: int, advice: str) -> None:
        """Refuse a document over the limit.

        Raises:
            DataError: It has more than `max_document_bytes` bytes.
        """
        limit = self.settings.max_document_bytes
        if len(data) > limit:
            raise DataError(too_long(self.place(record), limit, advice))

    def decode(self, data: bytes, record: int) -> str | None:
        """Return the text of one document, or None if it is invalid and to be skipped.

        Raises:
            DataError: Not valid UTF-8, and the policy is to refuse.
        """
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            return self.invalid(data, record, f"byte 0x{data[error.start]:02x} at position {error.start}")

    def invalid(self, data: bytes, record: int, what: str) -> str | None:
        """Apply the encoding policy to a document that is not valid UTF-8.

        Raises:
            DataError: The policy is to refuse.
        """
        if self.settings.encoding_errors == "refuse":
            guess = " (this looks like UTF-16)" if data.startswith(UTF16_MARKS) else ""
            raise DataError(
                f"{self.place(record)} is not valid UTF-8{guess}: {what}; convert the file to UTF-8, "
                "or set data.encoding_errors to skip or replace"
            )
        self.report.invalid_documents += 1
        return data.decode(errors="replace") if self.settings.encoding_errors == "replace" else None

    def block(self, records: Sequence[int], texts: Iterable[str | None]) -> DocumentBlock:
        """Gather the documents that have text; None stands for one that was skipped already.

        Raises:
            DataError: A document has no text, and the policy is to refuse.
        """
        listed = list(texts)
        kept = [text for text in listed if text and not text.isspace()]
        if len(kept) == len(listed):
            self.report.documents += len(kept)
            return DocumentBlock(self.label, records, kept)
        full = [(record, text) for record, text in zip(records, listed) if text and not text.isspace()]
        for record, text in zip(records, listed):
            if text is not None and (not text or text.isspace()):
                self.empty(record)
        self.report.documents += len(full)
        return DocumentBlock(self.label, [record for record, _ in full], kept)

    def empty(self, record: int) -> None:
        """Count a document without text.

        Raises:
            DataError: The policy is to refuse.
        """
        if self.settings.empty_documents == "refuse":
            raise DataError(f"{self.place(record)} has no text; remove it, or set data.empty_documents to skip")
        self.report.empty_documents += 1

    def place(self, record: int) -> str:
        """Return `file:record`, or the file where it is the document."""
        return f"{self.label}:{record}" if record else self.label
