"""Read the texts that surprisal is asked for.

    .txt               one text per line
    .jsonl             a field `sentence` or `text`
    .csv, .tsv         a column `sentence` or `text`: one text per row; or a column `word` or `region`: one row for each
                       word or region of a text, in order, and columns that say which text it is: any of `text_id`,
                       `sentence_id`, `story`, `item`, `condition`, `trial`. Rows that follow each other with equal
                       values there are one text, joined by spaces.

Every other column is carried along to the result.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from foundry_config.errors import DataError
from foundry_model.pair_files import read_records

TEXT_COLUMNS = ("sentence", "text")
WORD_COLUMNS = ("word", "region")
ID_COLUMNS = ("text_id", "sentence_id", "story", "item", "condition", "trial")
SUFFIXES = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv")
WHITESPACE = " \t\n\r\x0b\x0c"

Row = tuple[str, dict[str, Any]]


class Region(NamedTuple):
    """A stretch of a text that gets one surprisal: one word, or a few."""

    words: tuple[str, ...]
    where: str
    """`file:line`, for messages."""
    columns: dict[str, str]
    """What else its record said."""

    @property
    def text(self) -> str:
        """The words as they are read."""
        return " ".join(self.words)


class Stimulus(NamedTuple):
    """One text, read from its beginning."""

    number: int
    """Its place in the file, counted from 1."""
    where: str
    regions: tuple[Region, ...]

    @property
    def words(self) -> list[str]:
        """All words, in order."""
        return [word for region in self.regions for word in region.words]


def read_stimuli(path: Path) -> list[Stimulus]:
    """Read a file of texts.

    Raises:
        DataError: The file is missing, of another kind, damaged, or has an empty text; names file and line.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: texts for surprisal are read from {', '.join(SUFFIXES)} files")
    stimuli = list(_from_lines(path) if path.suffix == ".txt" else _from_records(path))
    if not stimuli:
        raise DataError(f"{path}: no text in this file")
    return stimuli


def stimulus(text: str, *, number: int = 1, where: str = "text", columns: dict[str, str] | None = None) -> Stimulus:
    """Make a stimulus of a plain text: every word is a region.

    Raises:
        DataError: There is no word in it.
    """
    words = _split(text)
    if not words:
        raise DataError(f"{where}: the text is empty")
    return Stimulus(number, where, tuple(Region((word,), where, columns or {}) for word in words))


def _from_lines(path: Path) -> Iterator[Stimulus]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    texts = [(f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if _split(line)]
    return (stimulus(line, number=number, where=where) for number, (where, line) in enumerate(texts, start=1))


def _from_records(path: Path) -> Iterator[Stimulus]:
    rows = list(read_records(path))
    columns = list(dict.fromkeys(column for _, record in rows for column in record))
    text = next((name for name in TEXT_COLUMNS if name in columns), None)
    word = next((name for name in WORD_COLUMNS if name in columns), None)
    if word is not None:
        return _from_words(rows, word, [name for name in ID_COLUMNS if name in columns], path)
    if text is not None:
        return _from_texts(rows, text)
    wanted = ", ".join((*TEXT_COLUMNS, *WORD_COLUMNS))
    raise DataError(f"{path}: no column named {wanted}. Found: {', '.join(columns) or 'nothing'}")


def _from_texts(rows: Iterable[Row], column: str) -> Iterator[Stimulus]:
    for number, (where, record) in enumerate(rows, start=1):
        others = {name: str(value) for name, value in record.items() if name != column}
        yield stimulus(_value(record, column, where), number=number, where=where, columns=others)


def _from_words(rows: Iterable[Row], column: str, ids: list[str], path: Path) -> Iterator[Stimulus]:
    if not ids:
        raise DataError(
            f"{path}: the column {column!r} needs another one that says which text a row is of: {', '.join(ID_COLUMNS)}"
        )
    grouped = groupby(rows, key=lambda row: tuple(str(row[1].get(name, "")) for name in ids))
    for number, (_, members) in enumerate(grouped, start=1):
        regions = tuple(_region(where, record, column) for where, record in members)
        yield Stimulus(number, regions[0].where, regions)


def _region(where: str, record: dict[str, Any], column: str) -> Region:
    words = _split(_value(record, column, where))
    if not words:
        raise DataError(f"{where}: {column!r} is empty")
    return Region(tuple(words), where, {name: str(value) for name, value in record.items() if name != column})


def _value(record: dict[str, Any], column: str, where: str) -> str:
    value = record.get(column)
    if not isinstance(value, str):
        raise DataError(f"{where}: {column!r} must be text, found {value!r}")
    return value


def _split(text: str) -> list[str]:
    """Words as tokenizers see them: a no-break space is a character of a word, not a border."""
    return [word for word in text.translate(str.maketrans(WHITESPACE, " " * len(WHITESPACE))).split(" ") if word]
