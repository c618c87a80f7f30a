"""Which rolling checkpoints to remove, and removing them so that a crash in between does no harm.

Kept for ever: milestones, and whatever is damaged or unknown. Kept for now: the newest `keep` full checkpoints up to
the one just saved, by step (no clock takes part), and all later ones, which belong to a part of the run that is about
to be repeated. Removing is a rename to a name that no recovery looks at, then deletion.
"""

import logging
from collections.abc import Iterable, Sequence

from foundry_data import fs
from foundry_train.checkpoint_list import CheckpointInfo
from foundry_train.checkpoint_names import fresh_path

logger = logging.getLogger(__name__)


def removable(infos: Iterable[CheckpointInfo], *, keep: int, saved_step: int | None = None) -> list[CheckpointInfo]:
    """Return the rolling checkpoints that are no longer needed, oldest first.

    Args:
        infos: What the folder holds.
        keep: Newest rolling checkpoints to keep.
        saved_step: The checkpoint just saved; the newest one by default.
    """
    rolling = sorted(
        (info for info in infos if info.problem is None and info.kind == "full" and not info.milestone),
        key=lambda info: info.step,
    )
    past = [info for info in rolling if saved_step is None or info.step <= saved_step]
    return past[: max(0, len(past) - max(keep, 1))]


def remove_checkpoints(infos: Sequence[CheckpointInfo]) -> list[CheckpointInfo]:
    """Remove checkpoints; a failure is a warning, since the run itself is safe. Returns those that are gone."""
    gone: list[CheckpointInfo] = []
    for info in infos:
        trash = fresh_path(info.path.parent, "trash", info.step)
        try:
            fs.backend().rename(info.path, trash)
            gone.append(info)
            fs.remove_tree(trash)
        except OSError as error:
            logger.warning("the old checkpoint %s could not be removed: %s", info.path.name, error.strerror or error)
    return gone
