"""Read what a run wrote, as far as a report needs it; nothing is recomputed and nothing is written.

A run that is still training can be read too: a last line of `metrics.jsonl` that is not finished is left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from foundry_config.errors import ConfigError
from foundry_train.run_record import why_not_begun

Record = dict[str, Any]


class RunData(msgspec.Struct, frozen=True, kw_only=True):
    """One run, read from its folder."""

    path: Path
    name: str
    config: Record
    steps: list[Record]
    evaluations: list[Record]
    samples: list[Record]
    events: list[Record]
    environment: Record
    lineage: list[Record]
    plan: Record
    receipts: list[Record]

    @property
    def seed(self) -> int | None:
        """Random seed of the run."""
        return self.config.get("random_seed")

    @property
    def starts(self) -> list[Record]:
        """Lines of the lineage that tell of a process that began or went on."""
        return [record for record in self.lineage if record.get("event") != "save"]

    @property
    def last_step(self) -> int:
        """Newest step in the metrics, 0 if there is none."""
        return self.steps[-1]["step"] if self.steps else 0


def read_run(path: Path) -> RunData:
    """Read the run directory `path`.

    Raises:
        ConfigError: There is no run in `path`, or it has not begun to train.
    """
    config_file = path / "config.json"
    if reason := why_not_begun(path):
        raise ConfigError(f"{path} {reason}")
    if not config_file.is_file():
        raise ConfigError(
            f"no run in {str(path)!r}: it holds no config.json; give the run directory of `foundry train`"
        )
    config = _read_json(config_file)
    records = list(_read_lines(path / "metrics.jsonl"))
    by_kind: dict[str, list[Record]] = {"step": [], "evaluation": [], "sample": [], "event": []}
    for record in records:
        by_kind.get(record.get("kind", ""), []).append(record)
    return RunData(
        path=path,
        name=path.name or str(config.get("experiment_name", "run")),
        config=config,
        steps=by_kind["step"],
        evaluations=by_kind["evaluation"],
        samples=by_kind["sample"],
        events=by_kind["event"],
        environment=_read_json(path / "environment.json"),
        lineage=list(_read_lines(path / "lineage.jsonl")),
        plan=_read_json(path / "plan.json"),
        receipts=[_read_json(file) for file in sorted((path / "receipts").glob("*.json"))],
    )


def number(record: Record, key: str) -> float | None:
    """Return `record[key]` as a number; None if it is missing or was written as "nan" or "inf"."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _read_json(path: Path) -> Record:
    try:
        value = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    return value if isinstance(value, dict) else {"value": value}


def _read_lines(path: Path) -> Iterator[Record]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number_, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # the writer is in the middle of it, or was killed there
            try:
                yield msgspec.json.decode(line, type=dict)
            except msgspec.DecodeError as error:
                raise ConfigError(f"{path}:{number_}: not valid JSON ({error})") from error
