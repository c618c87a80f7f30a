"""Clean up what a crash left in a `checkpoints/` folder, and find the checkpoint to go on from.

Only the owner of the run (who holds its lock) may call this.
"""

import logging
from pathlib import Path

from foundry_config.errors import CheckpointError
from foundry_data import fs
from foundry_train.checkpoint_list import CheckpointInfo, describe, list_checkpoints
from foundry_train.checkpoint_names import step_path, transient_folders
from foundry_train.manifest import Kind
from foundry_train.quarantine import quarantine

logger = logging.getLogger(__name__)


def clean_up(checkpoints: Path) -> None:
    """Remove half-written and half-removed folders, and put back a checkpoint whose replacement never arrived.

    Foreign names are left alone. Failures are warnings: leftovers cost space, not correctness.
    """
    for purpose, step, path in transient_folders(checkpoints):
        try:
            if purpose == "old" and _put_back(path, step_path(checkpoints, step), step):
                continue
            fs.remove_tree(path)
        except OSError as error:
            logger.warning("the leftover %s could not be removed: %s", path, error.strerror or error)


def candidates(checkpoints: Path, *, kind: Kind = "full", step: int | None = None) -> list[CheckpointInfo]:
    """Return the checkpoints to try, newest first: of `kind` (any, for `weights`), and of exactly `step` if given.

    Those whose manifest or file sizes are wrong are among them, so that the caller can name them and put them aside.

    Raises:
        CheckpointError: One was written by a newer version of the software; going on without it would fork the run.
    """
    infos = [info for info in list_checkpoints(checkpoints) if step is None or info.step == step]
    for info in infos:
        if info.newer_format:
            raise CheckpointError(f"{info.path}: {info.problem}")
    wanted = [info for info in infos if info.manifest is None or kind == "weights" or info.manifest.kind == kind]
    return wanted[::-1]


def set_aside(info: CheckpointInfo, reason: str) -> None:
    """Move a damaged checkpoint to quarantine; if the disk does not let us, say so and go on without it."""
    try:
        quarantine(info.path, reason)
    except OSError as error:
        logger.warning("%s is damaged (%s) and could not be moved away: %s", info.path, reason, error.strerror or error)


def no_valid_checkpoint(checkpoints: Path, failures: list[tuple[CheckpointInfo, str]]) -> CheckpointError:
    """The error for a folder in which nothing can be used, with the reason for each."""
    lines = "".join(f"\n  {info.path.name}: {reason}" for info, reason in failures)
    return CheckpointError(
        f"no valid checkpoint is left in {checkpoints}; the damaged ones are in its .quarantine folder:{lines}\n"
        "Restore one of them from a copy, or start again in another training.output_dir"
    )


def _put_back(path: Path, home: Path, step: int) -> bool:
    """Return whether `path` was moved back to `home`, because what was to replace it there is missing or damaged."""
    if home.exists():
        problem = describe(home, step).problem
        if problem is None or describe(path, step).problem is not None:
            return False
        quarantine(home, problem)
    fs.backend().rename(path, home)
    fs.backend().fsync_directory(home.parent)
    return True
