"""Keep working when nobody reads the output any more.

    foundry train | head -1        # `head` leaves after one line; the training goes on

A write to a pipe without a reader, or to a terminal that is gone, raises an `OSError` in the middle of whatever was
printing. Inside `surviving_streams()` the first such error points the stream at the null device, and the program
never notices. Output that found no room, though somebody wanted it, is told of when the block ends.

With `apart=True` standard output is kept for what is written to `results()`. All else that goes there (the `print` of a
user's function, of a child process, of a C library) comes out on standard error, so that `--json` gives JSON alone.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class SurvivingStream:
    """A text stream whose writes never fail; everything else is the wrapped stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost = ""
        """Why text that somebody wanted was not written, in words; empty if all was."""

    def write(self, text: str) -> int:
        """Write `text`, or drop it when the other end has gone."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            return self._stream.write(_encodable(text, self._stream.encoding))
        except (OSError, ValueError) as error:  # ValueError: the file object was closed
            self._abandon(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or give up on the stream when the other end has gone."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._abandon(error)

    def _abandon(self, error: OSError | ValueError) -> None:
        """Point the descriptor at the null device, so that later writes, and the flush at exit, succeed."""
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            self.lost = os.strerror(error.errno)
        with contextlib.suppress(OSError, ValueError):  # io.UnsupportedOperation, of a stream without one, is both
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_kept: list[TextIO] = []


def results() -> TextIO:
    """Return the stream of the results: standard output, also where everything else is kept away from it."""
    return _kept[-1] if _kept else sys.stdout


@contextlib.contextmanager
def surviving_streams(*, apart: bool = False) -> Iterator[Callable[[], str]]:
    """Make `sys.stdout` and `sys.stderr` survive a reader that leaves, while the block runs.

    Args:
        apart: Keep standard output for `results()`, and send what else is written to it to standard error.

    Yields:
        A function that tells why a part of standard output was lost: the reason, or nothing.
    """
    before = sys.stdout, sys.stderr
    with _kept_apart(sys.stdout) if apart else contextlib.nullcontext(sys.stdout) as stdout:
        out, err = (SurvivingStream(stream or io.StringIO()) for stream in (stdout, sys.stderr))
        sys.stdout, sys.stderr = cast(TextIO, err if apart else out), cast(TextIO, err)
        _kept.append(cast(TextIO, out))
        try:
            yield lambda: out.lost
        finally:
            _kept.pop()
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _kept_apart(stream: TextIO) -> Iterator[TextIO]:
    """Move a stream to a descriptor that nobody else knows; its own becomes that of standard error."""
    try:
        own, theirs = stream.fileno(), sys.stderr.fileno()
        stream.flush()
        kept = os.dup(own)  # not inherited by children
    except (OSError, ValueError, AttributeError):  # a stream without a descriptor, or none at all: nothing to part
        yield stream
        return
    os.dup2(theirs, own)
    try:
        with os.fdopen(kept, "w", encoding=stream.encoding, errors=stream.errors, closefd=False) as file:
            yield file
    finally:
        os.dup2(kept, own)
        os.close(kept)


def _encodable(text: str, encoding: str) -> str:
    """Replace what a narrow terminal encoding (such as ASCII under LANG=C) cannot show."""
    return text.encode(encoding, errors="replace").decode(encoding)
