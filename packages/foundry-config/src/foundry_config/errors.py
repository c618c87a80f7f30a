"""The errors that a user can meet, and the exit code that each one ends a command with.

    FoundryError
      ├─ ConfigError            2   usage, config file, override
      ├─ DataError              3   corpus, tokenizer, token store
      ├─ CheckpointError        4   no valid checkpoint
      ├─ ResumeMismatchError    5   the run on disk is another experiment
      ├─ RunLockedError         6   another trainer holds the run
      ├─ StorageError           7   full, read-only or vanished disk
      ├─ NonFiniteError         8   loss or gradient is NaN or infinite
      ├─ MemoryExhaustedError   9   out of memory at micro-batch 1
      └─ WorkerError           10   a worker process died

A message says what was wrong, where, the value, and what to do. Nothing here is for our own bugs: those stay ordinary
exceptions and end with exit code 70.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import msgspec

if TYPE_CHECKING:
    from foundry_config.problems import Problem


class FoundryError(Exception):
    """Anything a user can cause; shown as one message, never as a traceback."""

    exit_code: ClassVar[int] = 1


class ConfigError(FoundryError, msgspec.ValidationError):
    """A config, override or command line that cannot be used. Also a `ValueError`.

    `problems` holds what is wrong one by one where a config was read; `str(error)` has a line for each of them, and
    `with_source()` adds the source line and a caret.
    """

    exit_code = 2

    def __init__(self, message: str = "", *, problems: "Sequence[Problem]" = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    def with_source(self) -> str:
        """Return the message with every source line and a caret under the place, for a terminal."""
        lines = str(self).splitlines()
        if len(lines) - len(self.problems) not in (0, 1):
            return str(self)
        heading = lines[: len(lines) - len(self.problems)]
        blocks = [f"{problem}\n{problem.excerpt()}".rstrip("\n") for problem in self.problems]
        return "\n".join([*heading, *blocks])


class DataError(FoundryError, ValueError):
    """A corpus, tokenizer or token store that is missing, damaged or unfit."""

    exit_code = 3


class MissingCorpusError(DataError):
    """There is nothing at the place of the corpus, so that nothing is known of it."""


class CheckpointError(FoundryError):
    """Checkpoints exist or were asked for, but none of them is valid."""

    exit_code = 4


class ResumeMismatchError(FoundryError):
    """The run on disk was made from another experiment than the one asked for."""

    exit_code = 5


class RunLockedError(FoundryError):
    """Another process is training in this run directory."""

    exit_code = 6


class StorageError(FoundryError, OSError):
    """The disk is full, read-only, gone, or failed to keep what was written."""

    exit_code = 7


class NonFiniteError(FoundryError):
    """The loss or a gradient is NaN or infinite."""

    exit_code = 8


class MemoryExhaustedError(FoundryError):
    """Out of memory with nothing left to make smaller."""

    exit_code = 9


class WorkerError(FoundryError):
    """A worker process died or raised."""

    exit_code = 10
