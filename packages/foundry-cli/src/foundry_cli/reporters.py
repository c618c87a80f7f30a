"""Show how a run gets on: a live bar on a terminal, one plain line at intervals everywhere else.

    step  120/350  ━━━━━━━━━━━━╺━━━━━━━━━━━━━━━━━━━━━━━  loss 4.981  lr 3.2e-03  11,840 tok/s  left 21 s

Both take the same calls (`foundry_train.Reporter`): `stage` when a part of the work begins, `progress` within it,
`step` after every optimizer update, `message` for a sentence, `close` at the end. They write to standard error.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from foundry_cli import console
from foundry_cli.figures import count, duration, plain, size
from foundry_cli.summary import shown_path

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from foundry_train import StepRecord

SECONDS_BETWEEN_LINES = 5.0
SHOWN_BY_REPORTER = "foundry_train.progress"  # the logger of the lines that go to the log file of a run
IN_BYTES = ("reading", "ablating", "tokenizer", "tokenizing")  # stages that count the bytes of the text


class Reporter(Protocol):
    """What a run tells while it goes on; see `foundry_train.Reporter`."""

    def stage(self, name: str, detail: str = "") -> None: ...

    def progress(self, stage: str, done: int, total: int | None) -> None: ...

    def step(self, record: "StepRecord") -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...


def make_reporter(*, every_steps: int) -> Reporter:
    """Choose the live bar if standard error is a terminal that can move its cursor, else plain lines."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return BarReporter()
    return LineReporter(every_steps=every_steps)


class LineReporter:
    """Plain lines, for log files and batch systems: every stage, and steps and progress at intervals."""

    def __init__(self, *, every_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_steps = every_steps
        self._clock = clock
        self._last_line = clock()
        self._stage = ""
        self._rate = Rate(clock)

    def stage(self, name: str, detail: str = "") -> None:
        """Begin a part of the work."""
        if (name, detail) != (self._stage, ""):
            self._line(stage_line(name, detail))
        self._stage = name
        self._rate = Rate(self._clock)

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Write how far the stage is, at most every few seconds."""
        if stage != self._stage:
            self.stage(stage)
        rate = self._rate.text(stage, done, total)
        if self._clock() - self._last_line >= SECONDS_BETWEEN_LINES and (done or total):
            share = f" of {amount(stage, total)} ({done / total:.0%})" if total else ""
            self._line(f"{stage}: {amount(stage, done)}{share}{rate}")

    def step(self, record: "StepRecord") -> None:
        """Write one line about an update: the first, the last, and every so many between."""
        if record.step in (1, record.total_steps) or record.step % self._every_steps == 0:
            self._line(
                f"step {record.step:>{len(str(record.total_steps))}}/{record.total_steps}  {step_figures(record)}"
            )

    def message(self, text: str) -> None:
        """Write a sentence."""
        self._line(text)

    def close(self) -> None:
        """End; nothing is held open."""

    def _line(self, text: str) -> None:
        console.note(text)
        self._last_line = self._clock()


class BarReporter:
    """A live bar per stage, with what is left of the time; messages scroll above it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._rate = Rate()

    def stage(self, name: str, detail: str = "") -> None:
        """Finish the bar before, and begin one for this stage."""
        self._finish_bar()
        self._stage = name
        self._rate = Rate()
        bars = self._live()
        if detail:
            bars.console.print(plain(stage_line(name, detail)))
        self._task = bars.add_task(plain(name), total=None, figures="")

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Move the bar of the stage."""
        if stage != self._stage or self._task is None:
            self.stage(stage)
        figures = f"{amount(stage, done)}{self._rate.text(stage, done, total)}" if done or total else ""
        self._update(done, total, figures)

    def step(self, record: "StepRecord") -> None:
        """Move the bar of the training to this update."""
        if self._stage != "step" or self._task is None:
            self.stage("step")
        done = f"{record.step:>{len(str(record.total_steps))}}/{record.total_steps}"
        self._update(record.step, record.total_steps, f"{done}  {step_figures(record)}")

    def message(self, text: str) -> None:
        """Write a sentence above the bar."""
        self._live().console.print(plain(text))

    def close(self) -> None:
        """Remove the bar, leaving what was said above it."""
        self._finish_bar()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _update(self, done: int, total: int | None, figures: str) -> None:
        assert self._task is not None
        self._live().update(self._task, completed=done, total=total, figures=figures)

    def _finish_bar(self) -> None:
        if self._task is not None and self._progress is not None:
            self._progress.refresh()  # the last figures, which the timer may not have drawn
            self._progress.remove_task(self._task)
        self._task = None

    def _live(self) -> "Progress":
        bars = self._progress
        if bars is None:
            bars = self._progress = _new_progress()
            bars.start()
        return bars


class ReporterHandler(logging.Handler):
    """Shows messages of `logging` through a reporter, so that they never tear its bar.

    What the reporter shows anyway, and errors that end the command with a message of their own, are left out.
    """

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Show one message."""
        if record.name == SHOWN_BY_REPORTER or getattr(record, "raised", False):
            return
        try:
            kind = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            self._reporter.message(f"{kind}{record.getMessage()}")
        except Exception:  # a message must not end what it tells about
            self.handleError(record)


class Rate:
    """How fast a count grows, and when it will reach its end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin: tuple[float, int, int] | None = None

    def text(self, stage: str, done: int, total: int | None) -> str:
        """Return `"  (1.2 MiB/s, 300,000 tok/s, left 3 s)"`, or nothing while there is too little to judge by.

        Bytes of text that know the tokens they became (`foundry_data.progress.TokenizedBytes`) tell the tokens too.
        """
        now, tokens = self._clock(), getattr(done, "tokens", 0)
        if self._begin is None:
            self._begin = (now, done, tokens)
        seconds, grown = now - self._begin[0], done - self._begin[1]
        if seconds < 0.5 or grown <= 0:
            return ""
        made = f", {count((tokens - self._begin[2]) / seconds)} tok/s" if tokens else ""
        left = f", left {duration(max(0, total - done) * seconds / grown)}" if total else ""
        return f"  ({amount(stage, grown / seconds)}/s{made}{left})"


def stage_line(name: str, detail: str) -> str:
    """Return `"run: runs/quickstart"`: a stage and what it is about, a run as short as it can be typed."""
    if name == "run":
        detail = shown_path(Path(detail))
    return f"{name}: {detail}" if detail else name


def amount(stage: str, number: float) -> str:
    """Return how much of a stage is done, in its unit."""
    return size(number) if stage.split()[0] in IN_BYTES else count(number)


def step_figures(record: "StepRecord") -> str:
    """Return the figures of an update that a person follows: loss, learning rate, speed, memory, time left."""
    parts = [f"loss {record.loss:.4f}", f"lr {record.lr:.2e}", f"{count(record.tokens_per_second)} tok/s"]
    if record.mfu is not None:
        parts.append(f"MFU {record.mfu:.0%}")
    if record.memory_bytes:
        parts.append(size(record.memory_bytes))
    if record.step < record.total_steps:
        parts.append(f"left {duration(record.eta_seconds)}")
    if record.skipped:
        parts.append("not finite, left out")
    return "  ".join(parts)


def _new_progress() -> "Progress":
    # rich.progress takes 0.2 s to import: only a terminal pays for it
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console.err(),
        transient=True,
        refresh_per_second=8,
    )
