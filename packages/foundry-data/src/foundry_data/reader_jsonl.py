"""Read JSON lines: one object per line, its text under one key.

    {"text": "One small step.", "id": 7}      text_field="text"      -> "One small step."

Blank lines mean nothing and are passed over; a null is a document without text. The strings of JSON are kept exactly as
they are written, line breaks included.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from foundry_config.errors import DataError
from foundry_config.lookup import did_you_mean
from foundry_data.documents import DocumentBlock, ReadReport, ReadSettings, escaped, is_unicode
from foundry_data.intake import Intake
from foundry_data.reader_text import split_lines, text_line_blocks
from foundry_data.sources import SourcePart

JSON_NAMES: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}


def read_json_lines(part: SourcePart, settings: ReadSettings, report: ReadReport) -> Iterator[DocumentBlock]:
    """Yield the texts of a JSON-lines file.

    Raises:
        DataError: A line is not an object with a string under `settings.text_field`; or as for text files.
    """
    intake = Intake(part.file.label, settings, report)
    decoder = _field_decoder(settings.text_field)
    for first, data in text_line_blocks(part, intake):
        numbers, texts = _decode_plain(data, first, decoder) or _decode_any(data, first, decoder, intake)
        if b"\\" in data:  # control characters are escaped in JSON
            intake.count_control_characters("".join(filter(None, texts)).encode())
        yield intake.block(numbers, texts)


def _field_decoder(field: str) -> Any:
    """Return a decoder that reads only `field` of an object, as `.text`, and skips over the rest."""
    record_type = msgspec.defstruct("Record", [("text", str)], rename={"text": field}, gc=False)
    return msgspec.json.Decoder(record_type)


def _decode_plain(data: bytes, first: int, decoder: Any) -> tuple[Sequence[int], Sequence[str | None]] | None:
    """Decode a block at once, or return None if its lines are not simply one good object each."""
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    if not data.startswith(b"{") or data.count(b"\n{") != lines - 1:
        return None
    try:
        texts = [record.text for record in decoder.decode_lines(data)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return (range(first, first + lines), texts) if len(texts) == lines else None


def _decode_any(data: bytes, first: int, decoder: Any, intake: Intake) -> tuple[Sequence[int], Sequence[str | None]]:
    """Decode a block line by line, passing over blank ones.

    Raises:
        DataError: A line is not an object with a string under the field.
    """
    lines = [(number, line) for number, line in enumerate(split_lines(data), first) if line.strip()]
    return [number for number, _ in lines], [_decode_line(line, number, decoder, intake) for number, line in lines]


def _decode_line(line: bytes, number: int, decoder: Any, intake: Intake) -> str | None:
    try:
        return decoder.decode(line).text
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _slow_text(line, number, intake)


def _slow_text(line: bytes, record: int, intake: Intake) -> str | None:
    """Decode a line that the fast decoder refused: find out what is wrong with it, or that it is merely unusual."""
    decoded = intake.decode(line, record)
    if decoded is None:
        return None
    place, field = intake.place(record), intake.settings.text_field
    try:
        value: Any = json.loads(decoded, strict=False)
    except (ValueError, RecursionError) as error:
        what = str(error).replace("line 1 column", "column")  # the place says the line
        raise DataError(f"{place} is not JSON: {what}; every line of a .jsonl file is one JSON object") from error
    if not isinstance(value, dict):
        raise DataError(
            f"{place} holds {JSON_NAMES[type(cast(object, value))]}, not an object; write {{{json.dumps(field)}: ...}}"
        )
    record_fields = cast(dict[str, Any], value)
    text = record_fields.get(field)
    if text is None and field in record_fields:  # without text, as a null of Parquet is
        return ""
    if not isinstance(text, str):
        raise DataError(f"{place} {_field_problem(field, list(record_fields), text)}; set data.text_field")
    if not is_unicode(text):
        return intake.invalid(text.encode("utf-8", "surrogatepass"), record, "half of a surrogate pair")
    return text


def _field_problem(field: str, names: list[str], value: Any) -> str:
    if field in names:
        return f"has {JSON_NAMES[type(value)]} under {field!r}, not a string"
    known = escaped(", ".join(names[:10]))
    return f"has no field {field!r}.{did_you_mean(field, names)} It has: {known}"
