"""Bring a captured state onto the disk under its step, whatever lies there already.

    nothing there                            -> published
    the same weights, and nothing is missing -> nothing to do: saving twice is saving once
    the same weights, but of less use        -> replaced by one that is both (full covers weights, milestone stays one)
    other weights, or damaged                -> quarantined, then published
    of another run                           -> refused

So when a step is both a milestone and the time for a rolling save, one full checkpoint marked as milestone holds it,
and it is permanent.
"""

import functools
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from foundry_config.errors import CheckpointError, ResumeMismatchError
from foundry_data import fs
from foundry_train.checkpoint_files import SHARD_BYTES, Capture, check_and_digest, contents_of
from foundry_train.checkpoint_list import CheckpointInfo, describe, file_problems
from foundry_train.checkpoint_names import step_path
from foundry_train.manifest import Manifest
from foundry_train.publish import publish
from foundry_train.quarantine import quarantine
from foundry_train.side_work import start_beside
from foundry_train.space import storage_error


def commit(
    checkpoints: Path, capture: Capture, *, verify: bool = False, shard_bytes: int = SHARD_BYTES
) -> CheckpointInfo:
    """Write a capture; when this returns, the checkpoint survives a power cut.

    Args:
        checkpoints: Folder of the run's checkpoints.
        capture: The state.
        verify: Read everything back before it counts.
        shard_bytes: Weights above this size are cut into several files.

    Raises:
        StorageError: The disk is full, read-only, gone, or failed twice.
        NonFiniteError: The state holds NaN or infinite numbers.
        ResumeMismatchError: The step belongs to another run.
    """
    step = capture.manifest.step
    carried: dict[str, Path] = {}
    digest = start_beside(functools.partial(check_and_digest, capture), size=capture.bytes)
    existing = _existing(checkpoints, step, capture.manifest.run_id)
    if existing is not None:
        plan = _reconcile(existing, capture, digest())
        if plan is None:
            _sync_again(checkpoints)
            return existing
        capture, carried = plan
    contents, outcome = contents_of(capture, digest, carried=carried, shard_bytes=shard_bytes)
    path = publish(checkpoints, step, contents, verify=verify)
    return CheckpointInfo(path, step, outcome.manifest, None)


class SaveListener(Protocol):
    """Who wants to know about saves; a `RunDirectory` does."""

    def before_save(self) -> None:
        """Make durable what must not be behind the checkpoint."""

    def after_save(self, info: CheckpointInfo) -> None:
        """The checkpoint is durable."""


class _Plan(NamedTuple):
    capture: Capture
    carried: dict[str, Path]
    """Files to take over from the checkpoint that is replaced."""


def _existing(checkpoints: Path, step: int, run_id: str) -> CheckpointInfo | None:
    path = step_path(checkpoints, step)
    if not path.is_dir():
        return None
    info = describe(path, step)
    if info.newer_format:
        raise CheckpointError(f"{path}: {info.problem}")
    if info.manifest is not None and info.manifest.run_id != run_id:
        raise ResumeMismatchError(
            f"{path} belongs to another run ({info.manifest.experiment_name!r}, id {info.manifest.run_id}); "
            "choose another training.output_dir"
        )
    return info


def _reconcile(existing: CheckpointInfo, capture: Capture, digest: str) -> _Plan | None:
    """Decide what to do about a checkpoint that is there; None if it serves the purpose as it is."""
    found = existing.manifest
    problems = [existing.problem] if existing.problem else file_problems(existing.path, found) if found else []
    if found is None or problems:
        _put_aside(existing.path, "; ".join(filter(None, problems)))
        return _Plan(capture, {})
    if found.weights.digest != digest:
        reason = f"its weights differ from those that attempt {capture.manifest.attempt} reached at the same step"
        _put_aside(existing.path, reason)
        return _Plan(capture, {})
    merged = _merged(found, capture.manifest)
    if (merged.kind, merged.milestone, merged.label) == (found.kind, found.milestone, found.label):
        return None
    keep_state = found.kind == "full" and capture.state is None
    carried = {name: existing.path / name for name in found.files if name.startswith("trainer/")} if keep_state else {}
    return _Plan(capture._replace(manifest=merged), carried)


def _merged(found: Manifest, wanted: Manifest) -> Manifest:
    return msgspec.structs.replace(
        wanted,
        kind="full" if "full" in (found.kind, wanted.kind) else "weights",
        milestone=found.milestone or wanted.milestone,
        label=wanted.label or found.label,
        parent=found.parent,
        supersedes=[*found.supersedes, found.self_digest],
    )


def _put_aside(path: Path, reason: str) -> None:
    try:
        quarantine(path, reason)
    except OSError as error:
        raise storage_error(error, path) from error


def _sync_again(checkpoints: Path) -> None:
    """The one who wrote the checkpoint may have died between rename and sync."""
    try:
        fs.backend().fsync_directory(checkpoints)
    except OSError as error:
        raise storage_error(error, checkpoints) from error
