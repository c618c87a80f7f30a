"""`run.json`, which says for ever what a run is, how it is read back, and why there is none yet."""

import json
from pathlib import Path
from typing import Any

import msgspec

from foundry_config.errors import ResumeMismatchError
from foundry_train.manifest import ParentLink

FORMAT = "foundry.run/1"


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`run.json`: what a run is, for ever."""

    format: str
    run_id: str
    config: str
    data: str
    tokenizer: str
    created: str
    """For people only."""
    parent: ParentLink | None = None
    """The checkpoint of another run that this one was forked from."""


def read_record(path: Path) -> RunRecord:
    """Read `run.json`.

    Raises:
        ResumeMismatchError: It is damaged, or of another format.
    """
    values = read_json(path)
    try:
        record = msgspec.convert(values, RunRecord)
    except msgspec.ValidationError as error:
        raise ResumeMismatchError(f"{path} is damaged: {error}") from error
    if record.format != FORMAT:
        raise ResumeMismatchError(f"{path} has the format {record.format}, this version reads {FORMAT}")
    return record


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is none."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def why_not_begun(run: Path) -> str | None:
    """Say in one line why a run has nothing to show: it failed, or is, before its data were ready; None if it has.

    has not begun to train: failed, DataError: corpus.txt does not exist
    """
    begun = (run / "config.json").is_file() or (run / "checkpoints").is_dir()
    if begun or not (run / "status.json").is_file():
        return None
    status = read_json(run / "status.json") or {"phase": "its status.json is damaged"}
    told = [" ".join(str(status[name]).split()) for name in ("phase", "exit_reason") if status.get(name)]
    return f"has not begun to train: {', '.join(told)}"
