"""Keep working when nobody reads the output any more.

    foundry train | head -1        # `head` leaves after one line; the training goes on

A write to a pipe without a reader, or to a terminal that is gone, raises an `OSError` in the middle of whatever was
printing. Inside `surviving_streams()` the first such error points the stream at the null device, and the program
never notices.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class SurvivingStream:
    """A text stream whose writes never fail; everything else is the wrapped stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, or drop it when the other end has gone."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            return self._stream.write(_encodable(text, self._stream.encoding))
        except (OSError, ValueError):  # ValueError: the file object was closed
            self._abandon()
            return len(text)

    def flush(self) -> None:
        """Flush, or give up on the stream when the other end has gone."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._abandon()

    def _abandon(self) -> None:
        """Point the descriptor at the null device, so that later writes, and the flush at exit, succeed."""
        with contextlib.suppress(OSError, ValueError):  # io.UnsupportedOperation, of a stream without one, is both
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def surviving_streams() -> Iterator[None]:
    """Make `sys.stdout` and `sys.stderr` survive a reader that leaves, while the block runs."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, SurvivingStream(stream or io.StringIO())) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _encodable(text: str, encoding: str) -> str:
    """Replace what a narrow terminal encoding (such as ASCII under LANG=C) cannot show."""
    return text.encode(encoding, errors="replace").decode(encoding)
