"""Read one column of text from Parquet files and from datasets saved by `datasets` (Arrow streams).

    id | text              text_field="text"
    ---+-----------------
    7  | One small step.   -> "One small step."

Rows are streamed in batches; the text is taken as bytes, so that the same policy for invalid UTF-8 holds everywhere.
Needs pyarrow (`foundry-data[parquet]`).
"""

import contextlib
import importlib
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from foundry_config.errors import DataError
from foundry_config.lookup import did_you_mean
from foundry_data.byte_streams import unchanged
from foundry_data.documents import DocumentBlock, ReadReport, ReadSettings, escaped
from foundry_data.intake import Intake
from foundry_data.sources import SourceFile, SourcePart

BATCH_ROWS = 1024


def read_parquet(part: SourcePart, settings: ReadSettings, report: ReadReport) -> Iterator[DocumentBlock]:
    """Yield the texts of a Parquet file, or of the row groups from `part.start` to `part.stop`.

    Raises:
        DataError: Not a Parquet file, no such column, or the column holds something else than text.
    """
    arrow = _import_pyarrow(part.file)
    with unchanged(part.file) as path, _explained(part.file, arrow), arrow.parquet.ParquetFile(path) as file:
        _check_column(part.file, file.schema_arrow, settings.text_field, arrow)
        groups = range(part.start, file.num_row_groups if part.stop is None else part.stop)
        batches = file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=[settings.text_field])
        yield from _documents(batches, part, settings, report)


def read_arrow(part: SourcePart, settings: ReadSettings, report: ReadReport) -> Iterator[DocumentBlock]:
    """Yield the texts of an Arrow stream, the file format of saved datasets.

    Raises:
        DataError: Not an Arrow stream, no such column, or the column holds something else than text.
    """
    arrow = _import_pyarrow(part.file)
    with (
        unchanged(part.file) as path,
        _explained(part.file, arrow),
        arrow.OSFile(str(path)) as raw,  # not mapped: a file cut while it is read would kill the process
        arrow.ipc.open_stream(raw) as stream,
    ):
        _check_column(part.file, stream.schema, settings.text_field, arrow)
        yield from _documents(stream, part, settings, report)


def split_parquet(file: SourceFile, _settings: ReadSettings, part_bytes: int) -> list[SourcePart]:
    """Cut a Parquet file between row groups, into parts of about `part_bytes` on disk.

    Raises:
        DataError: Not a Parquet file.
    """
    arrow = _import_pyarrow(file)
    with unchanged(file) as path, _explained(file, arrow), arrow.parquet.ParquetFile(path) as opened:
        groups = [opened.metadata.row_group(index) for index in range(opened.num_row_groups)]
        sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    parts: list[SourcePart] = []
    start, first, rows, size = 0, 1, 0, 0
    for index, (group_rows, group_bytes) in enumerate(sizes):
        rows, size = rows + group_rows, size + group_bytes
        if size >= part_bytes or index == len(sizes) - 1:
            parts.append(SourcePart(file, start, index + 1, first))
            start, first, rows, size = index + 1, first + rows, 0, 0
    return parts or [SourcePart(file)]


def _documents(
    batches: Iterable[Any], part: SourcePart, settings: ReadSettings, report: ReadReport
) -> Iterator[DocumentBlock]:
    intake = Intake(part.file.label, settings, report)
    first = part.first_record
    arrow = _import_pyarrow(part.file)
    for batch in batches:
        column = _as_bytes(batch.column(settings.text_field), arrow)
        values: list[bytes | None] = column.to_pylist()
        records = range(first, first + len(values))
        first += len(values)
        texts = [_text(value or b"", record, intake) for value, record in zip(values, records)]
        yield intake.block(records, texts)


def _text(value: bytes, record: int, intake: Intake) -> str | None:
    intake.require_size(value, record, "split it into several rows")
    intake.count(value)
    return intake.decode(value, record)


def _as_bytes(column: Any, arrow: Any) -> Any:
    """View a text column as bytes; text encoded by a dictionary is spelled out first."""
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(arrow.binary() if arrow.types.is_string(column.type) else arrow.large_binary())


def _check_column(file: SourceFile, schema: Any, field: str, arrow: Any) -> None:
    names: list[str] = list(schema.names)
    if field not in names:
        known = escaped(", ".join(names[:10]))
        hint = did_you_mean(field, names)
        raise DataError(f"{file.label} has no column {field!r}.{hint} It has: {known}; set data.text_field")
    if names.count(field) > 1:
        raise DataError(f"{file.label} has {names.count(field)} columns {field!r}; rename all but one")
    kind = schema.field(field).type
    value_kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    if value_kind not in (arrow.string(), arrow.large_string(), arrow.string_view()):
        raise DataError(f"{file.label}: column {field!r} holds {kind}, not text; set data.text_field")


def _import_pyarrow(file: SourceFile) -> Any:
    try:
        arrow = importlib.import_module("pyarrow")  # optional extra
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(f"{file.label} needs the package pyarrow: install foundry-data[parquet]") from error
    return arrow


@contextlib.contextmanager
def _explained(file: SourceFile, arrow: Any) -> Generator[None]:
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the disk's, not Arrow's own
            raise
        first_line = escaped(str(error).partition("\n")[0])
        raise DataError(f"{file.label} is damaged or of another format: {first_line}; write it again") from error
