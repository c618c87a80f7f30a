"""How a run shows itself: the protocol that the command line implements, and a plain one for everything else."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from foundry_train.hooks import StepRecord

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0


class Reporter(Protocol):
    """Receives what happens, on rank 0, in the training thread; must return quickly."""

    def stage(self, name: str, detail: str = "") -> None:
        """A stage begins (`tokenizer`, `model`, `training`, ...)."""

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Part of a stage is done."""

    def step(self, record: StepRecord) -> None:
        """An update is complete."""

    def message(self, text: str) -> None:
        """Something worth one line happened."""

    def close(self) -> None:
        """Nothing follows."""


class PlainReporter:
    """One line through `logging` now and then: for scripts, notebooks, batch jobs and tests."""

    def __init__(self, *, every_steps: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            every_steps: Distance between lines about steps.
            clock: Monotonic seconds.
        """
        self._every_steps = every_steps
        self._clock = clock
        self._last_progress = clock()

    def stage(self, name: str, detail: str = "") -> None:
        logger.info("%s%s", name, f": {detail}" if detail else "")

    def progress(self, stage: str, done: int, total: int | None) -> None:
        now = self._clock()
        if now - self._last_progress < LINE_SECONDS:
            return
        self._last_progress = now
        logger.info("%s: %s%s", stage, f"{done:,}", f" of {total:,}" if total else "")

    def step(self, record: StepRecord) -> None:
        if record.step % self._every_steps == 0 or record.step in (1, record.total_steps):
            logger.info("%s", describe_step(record))

    def message(self, text: str) -> None:
        logger.info("%s", text)

    def close(self) -> None:
        """Nothing to close."""


class Reporters:
    """Several reporters that are told the same."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def stage(self, name: str, detail: str = "") -> None:
        for reporter in self._reporters:
            reporter.stage(name, detail)

    def progress(self, stage: str, done: int, total: int | None) -> None:
        for reporter in self._reporters:
            reporter.progress(stage, done, total)

    def step(self, record: StepRecord) -> None:
        for reporter in self._reporters:
            reporter.step(record)

    def message(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.message(text)

    def close(self) -> None:
        for reporter in self._reporters:
            reporter.close()


def describe_step(record: StepRecord) -> str:
    """Put a record into one line of text.

    >>> describe_step(StepRecord(step=10, total_steps=100, epoch=0, loss=5.25, lr=1e-3, grad_norm=1.5, tokens=81920,
    ...     words=60000, tokens_per_second=4000.0, tokens_per_second_per_device=4000.0, mfu=None, memory_bytes=2**30,
    ...     eta_seconds=184.0, micro_batch=8))
    'step 10/100 loss 5.2500 lr 1.00e-03 grad 1.50 4,000 tok/s 1.00 GiB eta 3m04s'
    """
    parts = [
        f"step {record.step}/{record.total_steps}",
        f"loss {record.loss:.4f}",
        f"lr {record.lr:.2e}",
        f"grad {record.grad_norm:.2f}",
        f"{record.tokens_per_second:,.0f} tok/s",
    ]
    if record.mfu is not None:
        parts.append(f"mfu {100 * record.mfu:.1f}%")
    parts += [f"{record.memory_bytes / 2**30:.2f} GiB", f"eta {format_seconds(record.eta_seconds)}"]
    if record.skipped:
        parts.append("(skipped: not finite)")
    return " ".join(parts)


def format_seconds(seconds: float) -> str:
    """Write a duration the way people read it.

    >>> format_seconds(4.2), format_seconds(184), format_seconds(7260), format_seconds(200_000)
    ('4s', '3m04s', '2h01m', '2d07h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
