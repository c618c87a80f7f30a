"""Keep working when nobody reads the output any more.

    foundry train | head -1        # `head` leaves after one line; the training goes on

A write to a pipe without a reader, or to a terminal that is gone, raises an `OSError` in the middle of whatever was
printing. Inside `surviving_streams()` the first such error points the stream at the null device, and the program
never notices. Output that found no room, though somebody wanted it, is told of when the block ends.
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


@contextlib.contextmanager
def surviving_streams() -> Iterator[Callable[[], str]]:
    """Make `sys.stdout` and `sys.stderr` survive a reader that leaves, while the block runs.

    Yields:
        A function that tells why a part of standard output was lost: the reason, or nothing.
    """
    before = sys.stdout, sys.stderr
    out, err = (SurvivingStream(stream or io.StringIO()) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield lambda: out.lost
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _encodable(text: str, encoding: str) -> str:
    """Replace what a narrow terminal encoding (such as ASCII under LANG=C) cannot show."""
    return text.encode(encoding, errors="replace").decode(encoding)
