"""The messages of a run while it lasts: on the console, and in `<run>/logs/<experiment>.log` for whoever asks later.

    with run_logging(config, paths.logs, rank=0, console="stderr"):
        ...                                # `logging.level` and `logging.dir` hold for all of our packages

What the caller had set up before is put back afterwards. A program that has a handler on the root logger shows our
messages in its own way; nothing is added to its console.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from foundry_config import ExperimentConfig, configure_logging
from foundry_config.logs import EXPERIMENTS, PACKAGES, ConsoleHandler, LogFileHandler

logger = logging.getLogger(__name__)

Console = logging.Handler | Literal["stderr"] | None
RAISED = {"raised": True}  # `extra` of a message that is also raised: a console that shows errors can leave it out


@contextlib.contextmanager
def run_logging(config: ExperimentConfig, folder: Path, *, rank: int, console: Console) -> Iterator[None]:
    """Send the messages of our packages where the config says, until the block ends.

    Args:
        config: Names the experiment and the least severe level.
        folder: Receives the log file; one that cannot be written is warned about and done without.
        rank: Ranks above 0 have files of their own and show only warnings.
        console: `stderr`, a handler of the caller's, or nothing.
    """
    if console == "stderr" and logging.getLogger().handlers:
        console = None
    before = {logger: (logger.level, list(logger.handlers)) for logger in map(logging.getLogger, _NAMES)}
    _detach(before)
    try:
        _configure(config, folder, rank=rank, console=console)
        for owner, (_, handlers) in before.items():
            for handler in handlers:
                if not isinstance(handler, ConsoleHandler | LogFileHandler):
                    owner.addHandler(handler)
        yield
    finally:
        _detach(before)
        configure_logging(config.experiment_name, console=None)
        for owner, (level, handlers) in before.items():
            owner.setLevel(level)
            for handler in handlers:
                owner.addHandler(handler)


def _configure(config: ExperimentConfig, folder: Path, *, rank: int, console: Console) -> None:
    name, level = config.experiment_name, config.logging.level
    try:
        configure_logging(name, log_dir=folder, level=level, rank=rank, console=console)
    except OSError as error:
        configure_logging(name, level=level, rank=rank, console=console)
        logger.warning("no log file is written: %s: %s", folder, error.strerror or error)


def _detach(before: dict[logging.Logger, tuple[int, list[logging.Handler]]]) -> None:
    """Take the caller's handlers off, so that `configure_logging` does not close the files among them."""
    for owner, (_, handlers) in before.items():
        for handler in handlers:
            owner.removeHandler(handler)


_NAMES = (*PACKAGES, EXPERIMENTS)
