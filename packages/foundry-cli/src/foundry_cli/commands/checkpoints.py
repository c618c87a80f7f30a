"""`foundry checkpoints`: what a run saved, and removing what is no longer needed to resume."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry_cli.console import say, say_json, say_table
from foundry_cli.figures import counted, scaled, size
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, JsonOption, RunArgument

if TYPE_CHECKING:
    from foundry_train.checkpoint_list import CheckpointInfo

COLUMNS = ("step", "label", "kind", "kept", "tokens", "words", "loss", "size", "state")
LEFT = ("label", "kind", "kept", "state")


def checkpoints(
    run: RunArgument = DEFAULT_CONFIG,
    check: Annotated[bool, typer.Option("--check", help="Read and hash every file, not only sizes.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove rolling checkpoints but the newest; milestones always stay.")
    ] = False,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Rolling checkpoints that --prune leaves.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what --prune would remove; remove nothing.")] = False,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """List the checkpoints of RUN: step, label, kind, tokens, words, loss, size, and whether they are sound."""
    from foundry_cli.targets import CHECKPOINTS, find_run
    from foundry_config import ConfigError
    from foundry_train.checkpoint_list import list_checkpoints

    if dry_run and not prune:
        raise ConfigError("--dry-run goes with --prune: nothing else here removes anything")
    folder = find_run(run, base_dir=base_dir)
    if prune:
        _prune(folder, keep=keep, dry_run=dry_run, as_json=json)
        return
    rows = [describe(info, check=check) for info in list_checkpoints(folder / CHECKPOINTS)]
    if json:
        say_json(rows)
        return
    say_table(COLUMNS, [_cells(row) for row in rows], left=LEFT)
    say(f"{counted(len(rows), 'checkpoint')}, {size(sum(row['bytes'] for row in rows))} in {folder / CHECKPOINTS}")


def describe(info: "CheckpointInfo", *, check: bool) -> dict[str, Any]:
    """Return one checkpoint as plain data; `state` is complete (sizes only), sound, removed meanwhile, or a problem."""
    manifest = info.manifest
    consumed = manifest.consumed if manifest else None
    return {
        "step": info.step,
        "label": info.label,
        "kind": info.kind,
        "milestone": info.milestone,
        "tokens": consumed.tokens if consumed else None,
        "words": consumed.words if consumed else None,
        "loss": manifest.loss if manifest else None,
        "bytes": info.bytes,
        "state": _state(info, check=check),
        "path": str(info.path),
    }


def _state(info: "CheckpointInfo", *, check: bool) -> str:
    from foundry_train.checkpoint_list import file_problems

    if info.problem is not None or info.manifest is None:
        return info.problem or "no manifest"
    if not check:
        return "complete"
    problems = file_problems(info.path, info.manifest)
    if problems and not info.path.is_dir():
        return "removed meanwhile"
    return "; ".join(problems) if problems else "sound"


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        str(row["step"]),
        row["label"] or "",
        row["kind"],
        "for ever" if row["milestone"] else "rolling",
        "" if row["tokens"] is None else scaled(row["tokens"]),
        "" if row["words"] is None else scaled(row["words"]),
        "" if row["loss"] is None else f"{row['loss']:.4f}",
        size(row["bytes"]),
        row["state"],
    ]


def _prune(run: Path, *, keep: int, dry_run: bool, as_json: bool) -> None:
    from foundry_cli.targets import CHECKPOINTS
    from foundry_train.checkpoint_list import list_checkpoints
    from foundry_train.lock import RunLock
    from foundry_train.retention import removable, remove_checkpoints
    from foundry_train.space import storage_error

    try:
        lock = None if dry_run else RunLock(run)  # a trainer that works in this run must not lose a checkpoint
    except OSError as error:
        raise storage_error(error, run) from error
    try:
        victims = removable(list_checkpoints(run / CHECKPOINTS), keep=keep)
        rows = {info.path: describe(info, check=False) for info in victims}
        gone = victims if dry_run else remove_checkpoints(victims)
    finally:
        if lock is not None:
            lock.release()
    if as_json:
        say_json([{**rows[info.path], "removed": not dry_run} for info in gone])
        return
    for info in gone:
        say(f"{'would remove' if dry_run else 'removed'} {info.path} ({size(info.bytes)})")
    total = size(sum(info.bytes for info in gone))
    say(f"{counted(len(gone), 'checkpoint')}, {total}{' (nothing was removed: --dry-run)' if dry_run else ''}")
