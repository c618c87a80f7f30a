"""Messages of a run on the console and in a file of its own.

    logger = configure_logging("tiny", log_dir=paths.logs, level="INFO", rank=0)

    2026-03-01T09:15:02.123+00:00 INFO foundry_train.loop: 8 sequences x 128 tokens = 1,024 tokens per step

Only this module adds handlers. They hang on the loggers of our packages and on `foundry.<experiment>`, never on the
root logger, so that nothing of another library changes.
"""

import logging
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Literal, TextIO

from foundry_config.problems import visible

PACKAGES = ("foundry_config", "foundry_data", "foundry_model", "foundry_train", "foundry_cli")
EXPERIMENTS = "foundry"  # parent of the loggers of experiments
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class IsoFormatter(logging.Formatter):
    """Times in ISO 8601 with milliseconds and offset; control characters of a message written as escapes."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002
        """Return the time of the record in the local zone."""
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of the record; line breaks stay, so that a traceback can be read."""
        return "\n".join(visible(line.replace("\t", "    ")) for line in super().format(record).split("\n"))


class _Quiet(logging.Handler):
    """A handler whose failure (full disk, closed pipe) never stops or floods what it reports on."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing."""


class ConsoleHandler(_Quiet, logging.StreamHandler[TextIO]):
    """Writes to the console that was given."""


class LogFileHandler(_Quiet, logging.FileHandler):
    """Appends to a log file, and never through a link that someone put in its place."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        return os.fdopen(os.open(self.baseFilename, flags, 0o666), "a", encoding="utf-8", errors="backslashreplace")


def configure_logging(
    experiment_name: str = "foundry",
    *,
    log_dir: Path | None = None,
    level: str = "INFO",
    rank: int = 0,
    console: TextIO | logging.Handler | Literal["stderr"] | None = "stderr",
) -> logging.Logger:
    """Send the messages of our packages to the console and to `log_dir/<experiment>.log`; return the run's logger.

    A further call replaces what an earlier one set up for the packages; the logger of another experiment keeps its own
    file, and never receives messages of this one.

    Args:
        experiment_name: Name of the file, and of the logger below `foundry`.
        log_dir: Folder of the file, made if needed; None writes none.
        level: Least severe message that is taken.
        rank: Rank of this process; ranks above 0 show only warnings on the console and have files of their own.
        console: A stream, a ready handler (for example one that draws around a progress bar), or None.

    Raises:
        OSError: The folder or file cannot be made.
    """
    shared = [handler for handler in (_console_handler(console, level, rank),) if handler]
    own = [_file_handler(log_dir, experiment_name, level, rank)] if log_dir else []
    for name in (*PACKAGES, EXPERIMENTS):
        logger = logging.getLogger(name)
        _replace_handlers(logger, shared if name == EXPERIMENTS else shared + own)
        logger.setLevel(level)
    # a dot would make `tiny.v2` a child of `tiny`, whose file would then get its messages
    experiment = logging.getLogger(f"{EXPERIMENTS}.{experiment_name.replace('.', '_')}")
    _replace_handlers(experiment, own)
    experiment.setLevel(level)
    return experiment


def list_log_files(log_dir: str | Path, experiment_name: str | None = None) -> list[Path]:
    """Return the log files in `log_dir`, of one experiment or of all, in the order of their names."""
    folder = Path(log_dir)
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.suffix == ".log" and path.is_file()]
    if experiment_name is not None:
        files = [path for path in files if _experiment_of(path) == experiment_name]
    return sorted(files)


def _file_handler(log_dir: Path, experiment_name: str, level: str, rank: int) -> logging.Handler:
    log_dir.mkdir(parents=True, exist_ok=True)
    suffix = f".rank{rank}.log" if rank else ".log"
    return _dressed(LogFileHandler(log_dir / f"{experiment_name}{suffix}"), level)


def _console_handler(
    console: TextIO | logging.Handler | Literal["stderr"] | None, level: str, rank: int
) -> logging.Handler | None:
    if console is None:
        return None
    threshold = level if rank == 0 else max(level, "WARNING", key=_severity)
    if isinstance(console, logging.Handler):
        console.setLevel(threshold)
        return console
    # looked up now and not when this module is imported: a test or a notebook may have replaced it
    return _dressed(ConsoleHandler(sys.stderr if isinstance(console, str) else console), threshold)


def _dressed(handler: logging.Handler, level: str) -> logging.Handler:
    handler.setLevel(level)
    handler.setFormatter(IsoFormatter(FORMAT))
    return handler


def _replace_handlers(logger: logging.Logger, handlers: list[logging.Handler]) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if isinstance(handler, LogFileHandler) and handler not in handlers:
            handler.close()
    for handler in handlers:
        logger.addHandler(handler)


def _experiment_of(path: Path) -> str:
    name = path.name.removesuffix(".log")
    stem, rank, number = name.rpartition(".rank")
    return stem if rank and number.isdigit() else name


def _severity(level: str) -> int:
    levels: Mapping[str, int] = logging.getLevelNamesMapping()
    return levels[level]
