"""Everything a run says about itself goes through here once: to metrics.jsonl, the sinks and the reporter.

    {"kind":"step","attempt":1,"step":10,"epoch":0,"loss":5.25,"lr":0.001,"grad_norm":1.5,"tokens":81920, ...}
    {"kind":"evaluation","attempt":1,"step":10,"suite":"test","loss":5.1,"perplexity":164.0, ...}
    {"kind":"sample","attempt":1,"step":10,"prompt":"","text":"..."}
    {"kind":"event","attempt":1,"step":10,"event":"oom","before":8,"after":4}

Records are collected and written once a second and before every checkpoint, so a crash loses at most the last second;
what was written beyond the checkpoint is cut off by the resume. How a line looks on disk is in `metrics_log.py`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foundry_config.shapes import is_list, is_mapping
from foundry_train.hooks import StepRecord
from foundry_train.progress import Reporter
from foundry_train.sinks import BackgroundSink

FLUSH_SECONDS = 1.0
_OF_THE_LOOP = ("step", "event")
_NOT_WRITTEN = ("total_steps", "eta_seconds", "skipped")


class RecordWriter:
    """Collects records and hands them on; does nothing on ranks that have neither file, sinks nor reporter."""

    def __init__(
        self,
        append: Callable[[Mapping[str, Any]], None],
        *,
        reporter: Reporter,
        sinks: Sequence[BackgroundSink] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            append: Adds a record to metrics.jsonl, with the number of the attempt.
            reporter: Told about every step.
            sinks: Mirrors.
            clock: Monotonic seconds.
        """
        self._append = append
        self._reporter = reporter
        self._sinks = sinks
        self._clock = clock
        self._waiting: list[Mapping[str, Any]] = []
        self._last_flush = clock()

    def step(self, record: StepRecord) -> None:
        """Write and show one update."""
        values = {name: getattr(record, name) for name in record.__struct_fields__ if name not in _NOT_WRITTEN}
        self.log({"kind": "step", **values})
        self._reporter.step(record)

    def log(self, record: Mapping[str, Any]) -> None:
        """Write one record; it must have `kind` and `step`."""
        line = {**record, "time": round(time.time(), 3)}
        self._waiting.append(line)
        for sink in self._sinks:
            sink.write({**line})  # a copy: what somebody's sink does to it changes no file
        if self._clock() - self._last_flush >= FLUSH_SECONDS:
            self.flush()

    def event(self, name: str, step: int, **details: Any) -> None:
        """Write an event: `oom`, `resume`, `nonfinite_skip`, `overflow_skip`, `checkpoint`, `stop`, ..."""
        self.log({"kind": "event", "step": step, "event": name, **details})

    def flush(self) -> None:
        """Hand what waits to the operating system."""
        self._last_flush = self._clock()
        waiting, self._waiting = self._waiting, []
        for record in waiting:
            self._append(record)


def checked_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as JSON can hold it: numbers of NumPy and torch, of one element, become those of Python.

    Raises:
        TypeError: It has no `kind` or one of the loop's own, or a value that is no text, number, list or mapping; names
            the field.
    """
    if not isinstance(record.get("kind"), str):
        raise TypeError(
            f"a record needs a `kind` that is text; this one has {', '.join(map(repr, record)) or 'nothing'}"
        )
    if record["kind"] in _OF_THE_LOOP:
        raise TypeError(f"records of the kind {record['kind']!r} are the loop's own; give yours a kind of its own")
    return {name: _plain(value, str(name)) for name, value in record.items()}


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if is_mapping(value):
        return {str(key): _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if is_list(value):
        return [_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if getattr(value, "shape", None) == () and isinstance(number := value.item(), int | float):
        return number
    found = f"a value of type {type(value).__name__}"
    raise TypeError(f"a record cannot hold {where!r}, {found}; it takes texts, numbers, lists and mappings")
