"""The history of a run in `lineage.jsonl`: every start, where it went on from, what had changed, and every save.

    {"event":"start","attempt":2,"from_step":900,"manifest":"sha256:…","fingerprint":{…},"changes":["a: 1 -> 2"]}
    {"event":"save","attempt":2,"step":1000,"manifest":"sha256:…","parent":"sha256:…"}

Because saves are recorded too, the chain of parents can still be followed when retention has removed links of it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundry_data import fs
from foundry_train.checkpoint_list import CheckpointInfo
from foundry_train.manifest import canonical_bytes

LINEAGE_NAME = "lineage.jsonl"


def append_event(run_dir: Path, event: Mapping[str, Any]) -> None:
    """Append one line and make it durable.

    Raises:
        OSError: It could not be written.
    """
    path = run_dir / LINEAGE_NAME
    _end_last_line(path)
    fs.append_durable_line(path, canonical_bytes(dict(event)) + b"\n")


def save_event(info: CheckpointInfo) -> dict[str, Any]:
    """The event of a checkpoint that was published."""
    manifest = info.manifest
    if manifest is None:
        raise ValueError(f"{info.path} has no readable manifest")
    return {
        "event": "save",
        "attempt": manifest.attempt,
        "step": manifest.step,
        "kind": manifest.kind,
        "milestone": manifest.milestone,
        "manifest": manifest.self_digest,
        "parent": None if manifest.parent is None else manifest.parent.self_digest,
        "weights": manifest.weights.digest,
    }


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Return the events in order; a line that a crash tore is left out."""
    try:
        data = (run_dir / LINEAGE_NAME).read_bytes()
    except FileNotFoundError:
        return []
    events: list[dict[str, Any]] = []
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def fingerprint_changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Name every component of the numeric fingerprint that differs, as `component: old -> new`.

    >>> fingerprint_changes({"torch": "2.14", "cpu": "a"}, {"torch": "2.15", "cpu": "a"})
    ['torch: 2.14 -> 2.15']
    """
    changes: list[str] = []
    for name in sorted(set(saved) | set(current)):
        old, new = saved.get(name), current.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += [f"{name}.{change}" for change in fingerprint_changes(old, new)]
        elif old != new:
            changes.append(f"{name}: {old} -> {new}")
    return changes


def _end_last_line(path: Path) -> None:
    """Close a line that a crash tore, so that the next event starts on one of its own."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            if not file.tell():
                return
            file.seek(-1, 2)
            whole = file.read(1) == b"\n"
    except FileNotFoundError:
        return
    if not whole:
        fs.append_line(path, b"\n")
