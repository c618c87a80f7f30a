"""Results of evaluations on disk, so that nothing is computed twice.

    run/evaluations/
      step-00000500/
        minimal_pairs.wh_island.3fa9c2d01b7e/        one unit of work: a file of pairs, of texts, or a corpus
          result.json                                values, counts, settings, and the weights they belong to
          pairs.csv                                  one row per pair, with both scores
        newest.json                                  which result of each file was asked for last

The last part of a name is the digest of all that decides the numbers: weights, model config, tokenizer, start token,
the input's bytes and the settings. A folder appears by renaming, whole or not at all; what was finished stays when a
later unit fails.
"""

import contextlib
import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from foundry_config.errors import StorageError
from foundry_data import fs
from foundry_train.manifest import canonical_bytes

FORMAT = "foundry.evaluation/1"
FOLDER = "evaluations"
RESULT = "result.json"
NEWEST = "newest.json"


class CheckpointFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which weights a result belongs to."""

    weights: str
    """Digest of the weights."""
    step: int | None = None
    label: str | None = None
    tokens: int | None = None
    words: int | None = None


class Count(msgspec.Struct, frozen=True):
    """Pairs of one group in one file, so that groups can be added up over files."""

    group: str
    name: str
    measure: str
    n: int
    correct: float
    ties: int

    @property
    def item(self) -> str:
        """What a table calls it: the file, `field=...`, `term=...`, or `overall`."""
        if self.group == "overall":
            return "overall"
        return self.name if self.group == "file" else f"{self.group}={self.name}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `result.json` holds."""

    format: str = FORMAT
    suite: str
    """`minimal_pairs`, `surprisal` or `corpus`."""
    name: str
    """The file, without its suffix."""
    key: str
    """Digest of all that decides the numbers."""
    settings: dict[str, Any]
    checkpoint: CheckpointFacts
    values: dict[str, float | str]
    """Measures by name; the texts "inf" and "nan" stand for those numbers."""
    details: dict[str, Any] = {}
    """What the numbers are over, and what was used where the settings leave it open: window, stride, start token."""
    counts: list[Count] = []
    tables: list[str] = []
    """Files beside this one."""

    @property
    def table_suite(self) -> str:
        """What a table calls the suite: with the settings that are not at their default."""
        described = describe_settings(self.settings)
        return f"{self.suite}[{described}]" if described else self.suite

    def number(self, item: str) -> float:
        """One of the values."""
        return float(self.values[item])


def key_of(facts: Mapping[str, Any]) -> str:
    """Digest of what decides the numbers of a unit. [64 hexadecimal digits]"""
    return hashlib.sha256(canonical_bytes(facts)).hexdigest()


def result_folder(evaluations: Path, place: str, suite: str, name: str, key: str) -> Path:
    """Where the result of a unit lies; `place` is the checkpoint's folder name."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80] or "_"
    return evaluations / place / f"{suite}.{readable}.{key[:12]}"


def read_result(folder: Path, *, key: str | None = None) -> Result | None:
    """Return the finished result in `folder`; None if there is none, or it is of another key, format or
    damaged, or one of its tables is gone."""
    try:
        result = msgspec.json.decode((folder / RESULT).read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError):
        return None
    if result.format != FORMAT or (key is not None and result.key != key):
        return None
    return result if all((folder / name).is_file() for name in result.tables) else None


def write_result(folder: Path, result: Result, tables: Mapping[str, Iterable[bytes]]) -> Result:
    """Publish a result and its tables; a folder that is there is replaced.

    Raises:
        StorageError: The disk refuses.
    """
    temporary = folder.with_name(f".tmp-{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        fs.make_directories(folder.parent)
        fs.make_directories(temporary)
        for name, chunks in tables.items():
            fs.write_new(temporary / name, chunks)
        fs.write_new(temporary / RESULT, [msgspec.json.format(msgspec.json.encode(result), indent=1)])
        fs.backend().fsync_directory(temporary)
        if folder.exists():  # damaged, or made at the same time by another process
            fs.remove_tree(folder)
        fs.backend().rename(temporary, folder)
        fs.backend().fsync_directory(folder.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fs.remove_tree(temporary)
        raise StorageError(f"{folder}: the result cannot be written ({error.strerror or error})") from error
    return result


def remember_newest(folders: Sequence[Path], results: Sequence[Result]) -> None:
    """Write down beside the results of one checkpoint that these are the ones that were asked for last.

    A file of pairs that was changed, or scored from another start token, leaves several results of one name: a report
    shows the newest. Clocks do not decide it.

    Raises:
        StorageError: The disk refuses.
    """
    path = folders[0].parent / NEWEST
    known = _read_newest(path.parent)
    newest = known | {_unit_name(result): folder.name for folder, result in zip(folders, results, strict=True)}
    if newest == known:
        return
    try:
        fs.write_atomic(path, msgspec.json.format(msgspec.json.encode(newest, order="sorted"), indent=1))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error


def read_results(evaluations: Path) -> list[Result]:
    """Return the newest finished result of every unit below an `evaluations` folder, in order of name."""
    found: dict[tuple[Path, str], Result] = {}
    for file in sorted(evaluations.glob(f"*/[!.]*/{RESULT}")):
        folder, result = file.parent, read_result(file.parent)
        if result is None:
            continue
        unit = (folder.parent, _unit_name(result))
        if unit not in found or _read_newest(folder.parent).get(unit[1]) == folder.name:
            found[unit] = result
    return list(found.values())


def _unit_name(result: Result) -> str:
    return f"{result.table_suite}/{result.name}"


def _read_newest(folder: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode((folder / NEWEST).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return {}


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Put the settings of a unit that are not at their default into a few words, for a table.

    >>> describe_settings({"method": "one_prefix", "window": None, "input": "..."})
    'method=one_prefix'
    """
    hidden = {"input", "unit"}
    defaults = {"method": "sentence", "unknown": "refuse", "text_documents": "file", "text_field": "text"}
    shown = {k: v for k, v in settings.items() if k not in hidden and v is not None and defaults.get(k) != v}
    return ",".join(f"{name}={value}" for name, value in sorted(shown.items()))
