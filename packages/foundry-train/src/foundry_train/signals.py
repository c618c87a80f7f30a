"""Stop on a signal without losing work: the first one asks, a later one insists.

    with StopSignals() as signals:
        prepare()                       # a signal here raises Stopped at once: nothing is lost
        with signals.deferred():
            while training:
                step()
                if signals.requested:   # a signal here only asks; the loop saves, then stops
                    save()
                    signals.check()     # raises Stopped

SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 (the ones that clusters send before they kill) end with 143, 130, 138 and 140. Code
in C holds a signal back until it returns; `run_in_thread` keeps the main thread free for it.

A launcher passes on what it gets: where Slurm signals all processes of a job, torchrun's ranks get the same one twice
within moments. So the same signal within `REPEAT_SECONDS` is no insistence.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from foundry_config.errors import FoundryError

T = TypeVar("T")

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
REPEAT_SECONDS = 2.0
POLL_SECONDS = 0.05  # longest that a signal waits for the end of a stage in a thread


def exit_code_of(number: int) -> int:
    """Exit code of a process that a signal stopped: 128 + its number.

    >>> [exit_code_of(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)]
    [143, 130, 138, 140]
    """
    return 128 + number


class Stopped(FoundryError):
    """A signal or the time budget ended the run; running it again goes on where it stopped."""

    def __init__(self, reason: str, number: int = signal.SIGTERM) -> None:
        super().__init__(f"stopped by {reason}; run the same command again to go on")
        self.reason = reason
        self.number = int(number)

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """128 + the signal's number."""
        return exit_code_of(self.number)


class StopSignals:
    """Take over the stop signals while the block runs; outside the main thread, where Python forbids it, do nothing."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requested: int | None = None
        self._came: tuple[int, float] | None = None
        self._deferring = 0
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> int | None:
        """Number of the signal that asked to stop, or None."""
        return self._requested

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask to stop as if signal `number` had come (for a time budget, or another rank)."""
        if self._requested is None:
            self._requested = int(number)

    def check(self) -> None:
        """Raise Stopped if a stop was asked for."""
        if self._requested is not None:
            raise Stopped(signal.Signals(self._requested).name, self._requested)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[Self]:
        """Let signals only set `requested` while the block runs, instead of raising Stopped out of it."""
        self._deferring += 1
        try:
            yield self
        finally:
            self._deferring -= 1

    def run_in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which may sit in C code for minutes, in a thread while this one stays open for signals.

        On a signal, Stopped is raised here within moments and the thread is abandoned: `work` must leave only files
        that the next start ignores or removes. An exception of `work` is raised here.
        """
        outcome: list[T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                outcome.append(work())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=body, name="stage", daemon=True)
        with self.deferred():  # an exception out of a handler could hit the inside of `threading` itself
            thread.start()
            while thread.is_alive() and self._requested is None:
                thread.join(POLL_SECONDS)
        self.check()
        if failure:
            raise failure[0]
        return outcome[0]

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = self._clock()
        if self._came is not None and self._came[0] == number and now - self._came[1] < REPEAT_SECONDS:
            return
        if self._came is not None:
            os._exit(exit_code_of(number))  # insisted on: at once, and harmless, as a crash is
        self._came = (number, now)
        self.request(number)
        # an error that is on its way out says more: of a rank whose fellow failed, which is ended by its launcher now
        if not self._deferring and sys.exception() is None:
            self.check()
