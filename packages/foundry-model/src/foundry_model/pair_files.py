"""Read minimal pairs: BLiMP's own JSONL, and any JSONL, CSV or TSV with `sentence_good` and `sentence_bad`.

    sentence     sentence_good                    vs  sentence_bad                      every token is scored
    one_prefix   one_prefix_prefix + word_good    vs  the same prefix + word_bad        only the word is scored
    two_prefix   prefix_good + two_prefix_word    vs  prefix_bad + the same word        only the word is scored

BLiMP marks with `one_prefix_method` and `two_prefix_method` which of its pairs the last two are made for; the others
are left out and counted. Whatever else a record holds is carried along. `field` groups the results
("syntax/semantics", the spelling of one file of BLiMP, is read as "syntax_semantics"), and so does
`linguistics_term`.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from foundry_config.errors import DataError
from foundry_config.lookup import did_you_mean, pick

Method = Literal["sentence", "one_prefix", "two_prefix"]
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")


class Side(NamedTuple):
    """One half of a pair."""

    prefix: str
    """Read, but not scored; empty for a whole sentence."""
    scored: str

    @property
    def text(self) -> str:
        """All that the model reads."""
        return f"{self.prefix} {self.scored}" if self.prefix else self.scored


class MinimalPair(NamedTuple):
    """An acceptable text and an unacceptable one that differ in little."""

    good: Side
    bad: Side
    where: str
    """`file:line`, for messages."""
    pair_id: str
    field: str
    term: str


class PairFile(NamedTuple):
    """The pairs of one file."""

    path: Path
    pairs: list[MinimalPair]
    left_out: int
    """Records that the method is not made for."""

    @property
    def name(self) -> str:
        """What the results of the file are called."""
        return self.path.stem


def find_pair_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files in `paths`; a folder stands for the pair files in it and below, sorted.

    Raises:
        DataError: A path does not exist, is of another kind, a folder holds no pair file, or two files have one name.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
            if not inside:
                raise DataError(f"{path}: no minimal pairs in this folder, no file ending in {', '.join(SUFFIXES)}")
            found += inside
        elif not path.exists():
            near = did_you_mean(path.name, [entry.name for entry in _siblings(path)])
            raise DataError(f"{path}: no such file or folder of minimal pairs.{near}")
        elif path.suffix not in SUFFIXES:
            raise DataError(f"{path}: minimal pairs are read from files ending in {', '.join(SUFFIXES)}")
        else:
            found.append(path)
    unique = list(dict.fromkeys(found))
    _refuse_equal_names(unique)
    return unique


def read_pair_file(path: Path, *, method: Method = "sentence") -> PairFile:
    """Read the pairs of one file.

    Raises:
        DataError: A record is damaged, lacks a field, or holds an empty text; names file and line.
        ConfigError: There is no such method.
    """
    make = pick(method, METHODS, kind="method of minimal pairs")
    pairs: list[MinimalPair] = []
    left_out = 0
    for where, record in read_records(path):
        if method != "sentence" and not _is_made_for(record, method):
            left_out += 1
            continue
        good, bad = make(record, where)
        pairs.append(_pair(good, bad, where, record, number=len(pairs)))
    if not pairs and not left_out:
        raise DataError(f"{path}: no minimal pairs in this file")
    return PairFile(path, pairs, left_out)


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, record) of a JSONL, CSV or TSV file.

    Raises:
        DataError: The file is not readable as what its name says.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _tabular(path, file) if path.suffix in (".csv", ".tsv") else _json_lines(path, file)
            yield from rows
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _json_lines(path: Path, file: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(record).__name__}")
        yield f"{path}:{number}", record


def _tabular(path: Path, file: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError(f"{path}:{reader.line_num}: more values than the header has columns")
            yield f"{path}:{reader.line_num}", {key: value for key, value in row.items() if value is not None}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a valid table ({error})") from error


def _sentence(record: Mapping[str, Any], where: str) -> tuple[Side, Side]:
    good, bad = (_text(record, name, where) for name in ("sentence_good", "sentence_bad"))
    return Side("", good), Side("", bad)


def _one_prefix(record: Mapping[str, Any], where: str) -> tuple[Side, Side]:
    prefix = _text(record, "one_prefix_prefix", where)
    good, bad = (_text(record, name, where) for name in ("one_prefix_word_good", "one_prefix_word_bad"))
    return Side(prefix, good), Side(prefix, bad)


def _two_prefix(record: Mapping[str, Any], where: str) -> tuple[Side, Side]:
    good, bad = (_text(record, name, where) for name in ("two_prefix_prefix_good", "two_prefix_prefix_bad"))
    word = _text(record, "two_prefix_word", where)
    return Side(good, word), Side(bad, word)


def _is_made_for(record: Mapping[str, Any], method: str) -> bool:
    """Whether the record says so, or, where it says nothing, has the fields."""
    flag = record.get(f"{method}_method")
    if flag is None:
        return any(key.startswith(f"{method}_") for key in record)
    return flag in (True, "True", "true", "1")


def _text(record: Mapping[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if value is None:
        raise DataError(f"{where}: no field {name!r}.{did_you_mean(name, record)} Found: {', '.join(record)}")
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} must be text, found {value!r}")
    if not value.strip():
        raise DataError(f"{where}: {name!r} is empty")
    return value.strip()


def _pair(good: Side, bad: Side, where: str, record: Mapping[str, Any], *, number: int) -> MinimalPair:
    pair_id = str(record.get("pairID", record.get("pair_id", number)))
    field = str(record.get("field", "")).replace("/", "_")
    return MinimalPair(good, bad, where, pair_id, field, str(record.get("linguistics_term", "")))


def _refuse_equal_names(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise DataError(
                f"{path} and {seen[path.stem]} are both called {path.stem!r}, and so would their results; rename one"
            )
        seen[path.stem] = path


def _siblings(path: Path) -> list[Path]:
    return list(path.parent.iterdir()) if path.parent.is_dir() else []


METHODS = {"sentence": _sentence, "one_prefix": _one_prefix, "two_prefix": _two_prefix}
