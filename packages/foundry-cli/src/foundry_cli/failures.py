"""What a failed command says, and the exit code that it ends with.

    a `FoundryError`      one message on standard error, the error's own exit code
    a refusal of the disk one message that names the file, 7
    Ctrl-C                one line, 130
    anything else         a bug of ours: a crash report in a file, one line that names it, 70

Tracebacks are shown only with `--debug`. A crash report holds the traceback, versions and the command, and no
environment variables, so that it can be sent to somebody without giving a secret away.
"""

import errno
import os
import platform
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path

from foundry_cli.console import note
from foundry_cli.figures import plain
from foundry_cli.ranks import is_first_rank, rank

INTERNAL_ERROR = 70
INTERRUPTED = 130
STOPPED_BY_SIGNAL = 128  # an exit code above is 128 + the number of the signal
# what a file system may refuse anybody; commands that know more of it say more
OF_THE_DISK = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}
PACKAGES = ("foundry-cli", "foundry-config", "foundry-data", "foundry-model", "foundry-train", "torch", "transformers")


def report_failure(error: BaseException, *, debug: bool) -> int:
    """Say on standard error what went wrong, and return the exit code of the process."""
    # imported late: the way of a command that succeeds must not wait for the config structs
    from foundry_config.errors import FoundryError

    if debug:
        note("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, KeyboardInterrupt):
        note("interrupted")
        return INTERRUPTED
    if isinstance(error, FoundryError):
        code = error.exit_code
        if code > STOPPED_BY_SIGNAL:
            note(str(error))
        else:
            _say_error(_message(error))
        return code
    if isinstance(error, OSError) and error.errno in OF_THE_DISK and isinstance(error.filename, str):
        return _report_disk(error)
    _say_error(f"internal error: {type(error).__name__}: {error}")
    note(f"This is a bug. {_crash_report(error)}")
    return INTERNAL_ERROR


def _report_disk(error: OSError) -> int:
    """Say what the file system refused, and return the exit code of that."""
    from foundry_config.errors import StorageError
    from foundry_data.disk_advice import disk_advice

    place = Path(error.filename)
    advice = disk_advice(error, place) or "choose a place that you may read and write"
    _say_error(f"{place}: {error.strerror} ({errno.errorcode[error.errno or 0]}); {advice}")
    return StorageError.exit_code


def _message(error: BaseException) -> str:
    """Return the message, with source lines and carets where the error knows them and a person is looking."""
    with_source = getattr(error, "with_source", None)
    return with_source() if with_source is not None and sys.stderr.isatty() else str(error)


def _say_error(message: str) -> None:
    """Write `error: ...`, in red on a terminal, the message's own control characters spelled out."""
    who = "" if is_first_rank() else f" of rank {rank()}"
    text = f"error{who}: {plain(message)}"
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):  # https://no-color.org
        text = f"\x1b[31m{text}\x1b[0m"
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _crash_report(error: BaseException) -> str:
    """Write the report into the temporary folder, and say where; never fails."""
    versions = "\n".join(f"{name} {_version(name)}" for name in PACKAGES)
    arguments = " ".join(sys.argv[1:])
    text = (
        f"foundry {arguments}\n{time.strftime('%Y-%m-%dT%H:%M:%S%z')}\npython {platform.python_version()} on "
        f"{platform.platform()}\n{versions}\n\n{''.join(traceback.format_exception(error))}"
    )
    try:
        descriptor, name = tempfile.mkstemp(prefix="foundry-crash-", suffix=".txt", text=True)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as reason:
        return f"No crash report could be written ({reason}); run again with --debug to see the traceback."
    return f"Please report it with {Path(name)}; --debug shows the traceback."


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
