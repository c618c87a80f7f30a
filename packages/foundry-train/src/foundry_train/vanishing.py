"""Read checkpoints of a run that trains meanwhile: its retention may remove one between choosing and reading it.

    choose latest -> step-00000400 -> read ... the folder is gone -> choose again -> step-00000600 -> read

Retention renames a folder before it deletes what is in it, so a checkpoint is whole or gone. What we chose is chosen
again; what a person named is reported as removed.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from foundry_config.errors import CheckpointError

logger = logging.getLogger(__name__)

TRIES = 5  # a run that saves faster than a checkpoint is read must not keep us for ever
Choice = TypeVar("Choice")
Result = TypeVar("Result")


class RemovedCheckpointError(CheckpointError):
    """A checkpoint was there when it was chosen, and gone when it was read."""


@contextlib.contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Say of whatever fails inside that the folder `checkpoint`, which was there, was removed, if it is gone now.

    Raises:
        RemovedCheckpointError: It was removed meanwhile.
    """
    try:
        yield
    except Exception as error:  # each library has its own error for a file that is not there
        if checkpoint.is_dir():
            raise
        raise removed(checkpoint) from error


def removed(checkpoint: Path) -> RemovedCheckpointError:
    """Return the error about `checkpoint`, for a person who named it."""
    return RemovedCheckpointError(
        f"{checkpoint} was removed while it was read; a run keeps only the newest of its rolling checkpoints "
        "(training.keep_checkpoints), so choose the latest one or a milestone"
    )


def read_chosen(
    chosen: Choice, read: Callable[[Choice], Result], *, again: Callable[[], Choice] | None = None
) -> Result:
    """Return what `read` makes of `chosen`; where that was removed meanwhile, of what `again` chooses instead.

    Args:
        chosen: What to read first.
        read: Reads it inside of `reading`.
        again: Chooses anew; None where a person named the checkpoint, for which there is no other.

    Raises:
        RemovedCheckpointError: It was removed, and so was all that was chosen instead.
    """
    for _ in range(TRIES - 1):
        try:
            return read(chosen)
        except RemovedCheckpointError as error:
            if again is None:
                raise
            logger.info("%s; choosing again", error)
            chosen = again()
    return read(chosen)
